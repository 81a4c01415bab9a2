"""A `handle` that cancels its own step is its author's mistake; a cancel by a person or a deadline is not."""

import asyncio
import contextlib
from datetime import timedelta
from typing import cast

import pytest

from orchestrator import Orchestrator, Refused, Saga, UsageError
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import Phase, StepCommand, StepReply
from orchestrator.protocol.containment import CodeInterrupted
from orchestrator.protocol.messages.envelope import wrap
from tests.cast import put, take
from tests.cast_events import NothingCompleted, NothingFailed, NothingRequested
from tests.unit.test_driven_saga import Handle, Port, drive

SOON = 0.001


class Slow(Port):
    """A port whose steps never end by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        self.requests.append(f"{command.number} {command.operation}")
        self.begun.set()
        await asyncio.Event().wait()
        raise AssertionError


def driver_of(handle: Handle, port: Port, *, within: timedelta | None = None) -> Driver:
    class Scripted(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
        deadline = within

        async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
            return cast(NothingCompleted, await handle(saga))

    event = NothingRequested(refuse=False)
    envelope = wrap(event, event_id="one", source="tests")
    return Driver(Scripted, event, envelope, port)


async def with_timeout(saga: Saga) -> object:
    async with asyncio.timeout(SOON):
        await saga.execute(take("a", 1))
    return NothingCompleted()


async def with_swallowed_timeout(saga: Saga) -> object:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            await saga.execute(take("a", 1))
    return NothingCompleted()


async def with_timeout_and_another_step(saga: Saga) -> object:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            await saga.execute(take("a", 1))
    await saga.execute(put("a", 1))
    return NothingCompleted()


async def with_timeout_that_refuses(saga: Saga) -> object:
    try:
        async with asyncio.timeout(SOON):
            await saga.execute(take("a", 1))
    except TimeoutError:
        raise Refused("test.too_slow", "too slow") from None
    return NothingCompleted()


async def with_wait_for(saga: Saga) -> object:
    return await asyncio.wait_for(saga.execute(take("a", 1)), SOON)


async def with_shield(saga: Saga) -> object:
    return await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(saga.execute(take("a", 1)))), SOON)


async def with_cancelled_task(saga: Saga) -> object:
    step = asyncio.ensure_future(saga.execute(take("a", 1)))
    await asyncio.sleep(0)
    step.cancel()
    await step
    return NothingCompleted()


async def with_swallowed_cancelled_task(saga: Saga) -> object:
    step = asyncio.ensure_future(saga.execute(take("a", 1)))
    await asyncio.sleep(0)
    step.cancel()
    await asyncio.wait([step])
    return NothingCompleted()


async def with_task_group_in_which_another_fails(saga: Saga) -> object:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("another task")

    async with asyncio.TaskGroup() as group:
        group.create_task(saga.execute(take("a", 1)))
        group.create_task(fail())
    return NothingCompleted()


async def with_scope_that_cancels_its_own_task(saga: Saga) -> object:
    """Cancel the current task, as the cancel scopes of libraries such as anyio do."""
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(SOON, task.cancel)
    try:
        await saga.execute(take("a", 1))
    except asyncio.CancelledError:
        task.uncancel()
    finally:
        timer.cancel()
    return NothingCompleted()


@pytest.mark.parametrize(
    "handle",
    [
        with_timeout,
        with_swallowed_timeout,
        with_timeout_and_another_step,
        with_timeout_that_refuses,
        with_wait_for,
        with_shield,
        with_cancelled_task,
        with_swallowed_cancelled_task,
        with_task_group_in_which_another_fails,
        with_scope_that_cancels_its_own_task,
    ],
)
async def test_a_step_that_handle_cancels_is_its_authors_mistake(handle: Handle) -> None:
    port = Slow()

    with pytest.raises(UsageError, match=r"saga\.sleep.*deadline"):
        await driver_of(handle, port).drive()

    assert port.requests == ["1 cast.take"]


async def test_two_steps_in_a_task_group_are_refused() -> None:
    async def handle(saga: Saga) -> object:
        async with asyncio.TaskGroup() as group:
            group.create_task(saga.execute(take("a", 1)))
            group.create_task(saga.execute(put("a", 1)))
        return NothingCompleted()

    port = Slow()

    with pytest.raises(UsageError, match="a step was begun while another one was running"):
        await drive(handle, port)

    assert port.requests == ["1 cast.take"]


async def test_a_failed_step_in_a_task_group_fails_the_saga() -> None:
    async def handle(saga: Saga) -> object:
        async with asyncio.TaskGroup() as group:
            group.create_task(saga.execute(take("a", 1)))
        return NothingCompleted()

    assert (await drive(handle, Port(failing="cast.take"))).phase is Phase.FAILED


@pytest.mark.parametrize("handle", [with_timeout, with_wait_for, with_shield, with_cancelled_task])
async def test_a_persons_cancel_overrides_a_cancel_in_handle(handle: Handle) -> None:
    port = Slow()
    driving = asyncio.create_task(driver_of(handle, port).drive())
    await port.begun.wait()
    driving.cancel()
    await driving

    assert port.requests == ["1 cast.take", "begin undo saga.cancelled", "finish undone"]


async def test_a_cancel_after_a_swallowed_timeout_in_handle_is_carried_out() -> None:
    port, swallowed = Slow(), asyncio.Event()

    async def handle(saga: Saga) -> object:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SOON):
                await saga.execute(take("a", 1))
        swallowed.set()
        await asyncio.Event().wait()
        return NothingCompleted()

    driving = asyncio.create_task(driver_of(handle, port).drive())
    await swallowed.wait()
    driving.cancel()
    await driving

    assert port.requests == ["1 cast.take", "begin undo saga.cancelled", "finish undone"]


async def test_a_sagas_deadline_ends_a_step_before_handles_own_timeout() -> None:
    async def handle(saga: Saga) -> object:
        async with asyncio.timeout(60):
            await saga.execute(take("a", 1))
        return NothingCompleted()

    port = Slow()

    await driver_of(handle, port, within=timedelta(milliseconds=1)).drive()

    assert port.requests == ["1 cast.take", "begin undo saga.deadline_exceeded", "finish undone"]


async def test_a_driver_that_leaves_decides_nothing_even_if_handle_has_a_timeout() -> None:
    port = Slow()

    async def handle(saga: Saga) -> object:
        async with asyncio.timeout(60):
            await saga.execute(take("a", 1))
        return NothingCompleted()

    driver = driver_of(handle, port)
    driving = asyncio.create_task(driver.drive())
    await port.begun.wait()
    driver.abandon()

    with pytest.raises(asyncio.CancelledError):
        await driving
    assert port.requests == ["1 cast.take"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException])
async def test_a_base_exception_in_handle_is_a_bug_and_undoes_nothing(
    kind: type[BaseException],
) -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        raise kind

    port = Port()

    with pytest.raises((CodeInterrupted, UsageError)):
        await driver_of(handle, port).drive()

    assert port.requests == ["1 cast.take"]
