"""What `handle` may and may not do with its saga, on a port without a database."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, cast

import pytest
from pydantic import JsonValue

from orchestrator import DomainEvent, Orchestrator, Refused, Saga, UsageError
from orchestrator.drive.driver import Driver, SagaStuck
from orchestrator.drive.steps import StepFailed
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    Blocked,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    MarkStuckCommand,
    Outcome,
    PastPivot,
    Phase,
    StepCommand,
    StepDone,
    StepReply,
    UndoCommand,
    Undone,
    UndoPlan,
    UndoReply,
    WaitBegun,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.messages.envelope import Envelope, wrap
from tests.cast import deliver, put, send_letter, take, write_note
from tests.cast_events import NothingCompleted, NothingFailed, NothingRequested

Handle = Callable[[Saga], Awaitable[object]]


class Port:
    """A port that completes every step and records the requests."""

    def __init__(self, *, failing: str = "", past_pivot: bool = False) -> None:
        self.requests: list[str] = []
        self.failing = failing
        self.past_pivot = past_pivot

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        self.requests.append(f"{command.number} {command.operation}")
        await asyncio.sleep(0)
        if command.operation == self.failing:
            raise StepFailed("it failed for good")
        results = {"cast.take": 1, "cast.write_note": "note"}
        return StepDone(number=command.number, operation=command.operation, result=results.get(command.operation))

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Return at once."""
        self.requests.append(f"waits for {blocked.by[0].key}")

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        self.requests.append(f"{command.number} {command.operation}")
        return WaitBegun(number=command.number, seconds_left=command.seconds)

    async def pause(self, number: int, seconds: float) -> None:
        """Return at once."""
        self.requests.append(f"{number} for {seconds} s")

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Return the only event if it matches."""
        if matching(NothingRequested(refuse=True)):
            return wrap(NothingRequested(refuse=True), event_id="sent", source="tests")
        return None

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        self.requests.append(f"received {envelope.event_id}")

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        return StepDone(number=command.number, operation=command.operation, result=command.result)

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        self.requests.append(f"begin undo {command.error_code}")
        if self.past_pivot:
            return PastPivot(number=1)
        return UndoPlan(steps=(), ends_as=command.ends_as, event_time="2026-01-01T00:00:00Z")

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        return Undone(number=command.number)

    async def finish(self, command: FinishCommand) -> FinishReply:
        self.requests.append("finish completed" if command.completed is not None else "finish undone")
        phase = Phase.COMPLETED if command.completed is not None else Phase.FAILED
        return Outcome(phase=phase, event_id="one", content_digest="", triggering={}, event={})

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        self.requests.append("stuck")


async def drive(handle: Handle, port: Port, *, waits_for: tuple[type[DomainEvent], ...] = ()) -> Outcome:
    """Drive a saga whose `handle` is this function."""

    class Scripted(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
        awaited = waits_for

        async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
            return cast(NothingCompleted, await handle(saga))

    event = NothingRequested(refuse=False)
    return await Driver(Scripted, event, wrap(event, event_id="one", source="tests"), port).drive()


async def test_a_second_step_while_one_is_running_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await asyncio.gather(saga.execute(take("a", 1)), saga.execute(put("a", 1)))
        return NothingCompleted()

    with pytest.raises(UsageError, match="parallel=True"):
        await drive(handle, Port())


async def test_an_argument_other_than_a_call_is_refused_with_the_correct_form() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(cast(Any, "account.withdraw"))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"saga\.execute\(withdraw"):
        await drive(handle, Port())


async def test_a_compensable_step_after_an_irreversible_one_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        await saga.execute(take("a", 1))
        return NothingCompleted()

    with pytest.raises(UsageError, match="Put the irreversible step last"):
        await drive(handle, Port())


async def test_an_irreversible_step_in_a_parallel_batch_is_refused() -> None:
    """If another step of the batch refused, the saga could neither be undone nor complete."""

    async def handle(saga: Saga) -> object:
        await saga.execute_all(send_letter("x"), take("a", 1), parallel=True)
        return NothingCompleted()

    port = Port()
    with pytest.raises(UsageError, match="in its own `execute`"):
        await drive(handle, port)
    assert port.requests == []


async def test_the_arguments_and_results_of_a_saga_have_a_limit() -> None:
    async def handle(saga: Saga) -> object:
        for _ in range(200):
            await saga.execute(write_note("x" * 200_000))
        return NothingCompleted()

    with pytest.raises(UsageError, match="arguments and results of one saga"):
        await drive(handle, Port())


async def test_a_sleep_over_the_limit_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.sleep(timedelta(days=100_000))
        return NothingCompleted()

    with pytest.raises(UsageError, match="the limit is 3,660 days"):
        await drive(handle, Port())


async def test_a_compensable_step_after_an_irreversible_one_in_a_batch_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute_all(send_letter("x"), take("a", 1))
        return NothingCompleted()

    port = Port()
    with pytest.raises(UsageError, match="Put the irreversible step last"):
        await drive(handle, port)
    assert port.requests == []


async def test_a_retriable_step_before_any_pivot_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(deliver("x"))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"Write `await saga\.pivot\(\)` first"):
        await drive(handle, Port())


@pytest.mark.parametrize("pivot", ["a pivot", "an irreversible step", "one in the same batch"])
async def test_a_retriable_step_comes_after_the_pivot(pivot: str) -> None:
    async def handle(saga: Saga) -> object:
        match pivot:
            case "a pivot":
                await saga.pivot()
                await saga.execute(deliver("x"))
            case "an irreversible step":
                await saga.execute(send_letter("x"))
                await saga.execute(deliver("x"))
            case _:
                await saga.execute_all(send_letter("x"), deliver("x"))
        return NothingCompleted()

    port = Port()
    await drive(handle, port)

    assert port.requests[1:] == ["2 cast.deliver", "finish completed"]


async def test_a_sleep_is_a_step() -> None:
    async def handle(saga: Saga) -> object:
        await saga.sleep(timedelta(seconds=3))
        return NothingCompleted()

    port = Port()
    await drive(handle, port)

    assert port.requests == ["1 saga.sleep", "1 for 3.0 s", "finish completed"]


async def test_a_sleep_with_a_negative_duration_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.sleep(timedelta(seconds=-1))
        return NothingCompleted()

    with pytest.raises(UsageError, match="has the negative duration"):
        await drive(handle, Port())


async def test_an_awaited_event_is_received_with_its_type() -> None:
    received: list[object] = []

    async def handle(saga: Saga) -> object:
        received.append(await saga.wait_for(NothingRequested, timeout=timedelta(seconds=1)))
        never = timedelta(seconds=1)
        received.append(await saga.wait_for(NothingRequested, matching=lambda event: not event.refuse, timeout=never))
        return NothingCompleted()

    port = Port()
    await drive(handle, port, waits_for=(NothingRequested,))

    assert received == [NothingRequested(refuse=True), None]
    assert port.requests == ["1 saga.wait_for", "received sent", "2 saga.wait_for", "finish completed"]


async def test_waiting_for_an_undeclared_event_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.wait_for(NothingRequested, timeout=timedelta(seconds=1))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"awaited = \(NothingRequested,\)"):
        await drive(handle, Port())


async def test_arguments_over_the_size_limit_are_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(write_note("x" * 300_000))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"arguments of cast\.write_note take"):
        await drive(handle, Port())


async def test_a_handle_that_returns_another_type_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        return "done"

    with pytest.raises(UsageError, match="must return NothingCompleted, but returned str"):
        await drive(handle, Port())


class AnyCompleted(DomainEvent):
    """A completed event with any JSON value."""

    said: JsonValue = None


class AnyCompletedElse(AnyCompleted):
    """A subclass with a field that no reader of an `AnyCompleted` expects."""

    surplus: int = 1


class Saying(Orchestrator[NothingRequested, AnyCompleted, NothingFailed]):
    """Ends with the event that the test has set."""

    said: ClassVar[AnyCompleted]

    async def handle(self, event: NothingRequested, saga: Saga) -> AnyCompleted:
        return self.said


def _nested(levels: int) -> JsonValue:
    return [_nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (AnyCompleted(said=_nested(100)), "nested deeper than 100 levels"),
        (AnyCompleted(said=_nested(220)), "nested deeper|cannot be written"),
        (AnyCompleted.model_construct(said=float("nan")), "a value that JSON cannot represent"),
        (AnyCompletedElse(), "surplus"),
    ],
    ids=["nested", "very nested", "NaN", "a subclass"],
)
async def test_a_completed_event_that_cannot_be_recorded_exactly_ends_no_saga(said: AnyCompleted, why: str) -> None:
    Saying.said = said
    event = NothingRequested(refuse=False)
    port = Port()

    with pytest.raises(UsageError, match=f"returned a AnyCompleted that cannot be recorded: .*({why})"):
        await Driver(Saying, event, wrap(event, event_id="one", source="tests"), port).drive()

    assert port.requests == []


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
async def test_a_saga_whose_handle_swallows_a_failure_is_still_undone(swallowed: type[BaseException]) -> None:
    async def handle(saga: Saga) -> object:
        with contextlib.suppress(swallowed):
            await saga.execute(take("a", 1))
        with contextlib.suppress(swallowed):
            await saga.execute(put("a", 1))
        return NothingCompleted()

    port = Port(failing="cast.take")

    outcome = await drive(handle, port)

    assert outcome.phase is Phase.FAILED
    assert port.requests == ["1 cast.take", "begin undo operation.failed", "finish undone"]


async def test_an_error_that_handle_raises_while_it_is_interrupted_is_ignored() -> None:
    async def handle(saga: Saga) -> object:
        try:
            await saga.execute(take("a", 1))
        finally:
            raise UnboundLocalError("as a variable of the step would be")

    assert (await drive(handle, Port(failing="cast.take"))).phase is Phase.FAILED


@pytest.mark.parametrize(
    "group",
    [
        [Refused("box.closed", "no")],
        [ExceptionGroup("inner", [Refused("box.closed", "no")])],
        [ValueError("boom"), Refused("box.closed", "no"), Refused("box.other", "no")],
    ],
)
async def test_a_refusal_inside_an_exception_group_of_handle_counts_as_a_refusal(group: list[Exception]) -> None:
    async def handle(saga: Saga) -> object:
        raise ExceptionGroup("tasks", group)

    port = Port()

    with contextlib.suppress(ExceptionGroup):
        await drive(handle, port)

    assert port.requests == ["begin undo box.closed", "finish undone"]


async def test_a_group_of_other_errors_in_handle_is_a_bug() -> None:
    async def handle(saga: Saga) -> object:
        raise ExceptionGroup("tasks", [ValueError("boom")])

    with pytest.raises(ExceptionGroup):
        await drive(handle, Port())


async def test_a_step_that_is_not_awaited_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        running = asyncio.ensure_future(saga.execute(take("a", 1)))
        await asyncio.sleep(0)
        handle.__dict__["running"] = running
        return NothingCompleted()

    with pytest.raises(UsageError, match="Await each"):
        await drive(handle, Port())
    await handle.__dict__["running"]


async def test_a_call_that_was_never_executed_is_refused_before_the_saga_completes() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        put("b", 1)
        return NothingCompleted()

    port = Port()

    with pytest.raises(UsageError, match=r"You want: `await saga\.execute\(put"):
        await drive(handle, port)

    assert port.requests == ["1 cast.take"]


async def test_a_usage_error_that_handle_swallows_is_still_raised() -> None:
    async def handle(saga: Saga) -> object:
        await asyncio.gather(saga.execute(take("a", 1)), saga.execute(put("a", 1)), return_exceptions=True)
        return NothingCompleted()

    with pytest.raises(UsageError, match="parallel=True"):
        await drive(handle, Port())


async def test_only_the_first_of_parallel_steps_carries_the_opening() -> None:
    carried: list[bool] = []

    class Counts(Port):
        async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
            carried.append(command.opening is not None)
            return await super().run(command, deadline)

    async def handle(saga: Saga) -> object:
        await saga.execute_all(*[take("a", 1) for _ in range(5)], parallel=True)
        return NothingCompleted()

    await drive(handle, Counts())

    assert carried == [True, False, False, False, False]


async def test_large_parallel_steps_are_sent_in_groups_of_bounded_size() -> None:
    in_flight: list[int] = []

    class Counts(Port):
        async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
            in_flight.append(command.number)
            reply = await super().run(command, deadline)
            assert len(in_flight) <= 5
            in_flight.remove(command.number)
            return reply

    async def handle(saga: Saga) -> object:
        await saga.execute_all(*[write_note("x" * 240_000) for _ in range(12)], parallel=True)
        return NothingCompleted()

    assert (await drive(handle, Counts())).phase is Phase.COMPLETED


async def test_the_number_of_steps_of_a_saga_is_limited() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute_all(*[take("a", 1) for _ in range(1_001)])
        return NothingCompleted()

    with pytest.raises(UsageError, match="at most 1,000 steps"):
        await drive(handle, Port())


async def test_a_cancel_during_the_stuck_mark_does_not_prevent_it() -> None:
    marking, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Port):
        async def mark_stuck(self, command: MarkStuckCommand) -> None:
            marking.set()
            await go_on.wait()
            await super().mark_stuck(command)

    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        raise Refused("nothing.refused", "no")

    port = Slow(past_pivot=True)
    driving = asyncio.create_task(drive(handle, port))
    await marking.wait()
    driving.cancel()
    await asyncio.sleep(0)
    go_on.set()

    with pytest.raises(SagaStuck):
        await driving
    assert port.requests[-1] == "stuck"


async def test_a_bug_in_handle_is_raised_unchanged_and_undoes_nothing() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        raise KeyError("a bug")

    port = Port()

    with pytest.raises(KeyError):
        await drive(handle, port)

    assert port.requests == ["1 cast.take"]


async def test_parallel_steps_are_numbered_in_call_order() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute_all(*[take("a", coins) for coins in range(3)], parallel=True)
        await saga.execute(put("a", 1))
        return NothingCompleted()

    port = Port()

    await drive(handle, port)

    assert port.requests == ["1 cast.take", "2 cast.take", "3 cast.take", "4 cast.put", "finish completed"]


async def test_a_cancel_of_the_driving_task_undoes_the_saga_completely() -> None:
    port, begun = Port(), asyncio.Event()

    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        begun.set()
        await asyncio.Event().wait()
        return NothingCompleted()

    driving = asyncio.create_task(drive(handle, port))
    await begun.wait()
    driving.cancel()

    assert (await driving).phase is Phase.FAILED
    assert port.requests == ["1 cast.take", "begin undo saga.cancelled", "finish undone"]


async def test_a_saga_cancelled_after_its_pivot_completes() -> None:
    port, begun = Port(past_pivot=True), asyncio.Event()

    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return NothingCompleted()

    driving = asyncio.create_task(drive(handle, port))
    await begun.wait()
    driving.cancel()

    assert (await driving).phase is Phase.COMPLETED


async def test_a_saga_whose_committed_pivot_lost_its_reply_completes() -> None:
    class LosesReply(Port):
        async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
            reply = await super().run(command, deadline)
            if len(self.requests) == 1:
                raise StepFailed("no attempt ended in time")
            return reply

    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        return NothingCompleted()

    port = LosesReply(past_pivot=True)

    assert (await drive(handle, port)).phase is Phase.COMPLETED
    assert port.requests == [
        "1 cast.send_letter",
        "begin undo operation.failed",
        "1 cast.send_letter",
        "finish completed",
    ]


async def test_a_saga_that_keeps_failing_after_its_pivot_becomes_stuck() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        raise Refused("nothing.refused", "again and again")

    port = Port(past_pivot=True)

    with pytest.raises(SagaStuck, match="again and again"):
        await drive(handle, port)

    assert port.requests.count("begin undo nothing.refused") == 2
    assert port.requests[-1] == "stuck"


async def test_ids_and_randomness_are_the_same_in_every_run() -> None:
    seen: list[object] = []

    async def handle(saga: Saga) -> object:
        seen.append((saga.uuid(), saga.uuid(), saga.random.random(), saga.event_id))
        return NothingCompleted()

    await drive(handle, Port())
    await drive(handle, Port())

    assert seen[0] == seen[1]
