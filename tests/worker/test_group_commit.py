"""Which steps are grouped into one commit: those that arrive together, as long as grouping succeeds."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast
from uuid import uuid4

import pytest

from orchestrator.protocol.commands import SagaRef, StepCommand, StepDone, StepReply
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.partition import group_commit
from orchestrator.worker.partition.group_commit import GroupCommitSwitch, StepGroups


class Store:
    """A stand-in for the store that records the sizes of groups and succeeds or fails as the test wants."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.succeeds = True
        self.blocked_until: asyncio.Event | None = None
        self.began = asyncio.Event()

    def can_join_group(self, command: StepCommand) -> bool:
        return command.operation != "other.lonely"

    async def run_group(self, commands: Sequence[StepCommand], contexts: Sequence[Any]) -> list[StepReply] | None:
        assert len(contexts) == len(commands)
        self.groups.append(len(commands))
        self.began.set()
        if self.blocked_until is not None:
            await self.blocked_until.wait()
        await asyncio.sleep(0)
        if not self.succeeds:
            return None
        return [StepDone(number=command.number, operation=command.operation, result=None) for command in commands]


def command(number: int, operation: str = "box.take") -> StepCommand:
    return StepCommand(
        saga=SagaRef(id=uuid4(), orchestrator="O", event_id=str(number)),
        number=number,
        operation=operation,
        arguments={},
        event_time="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def groups(store: Store) -> AsyncGenerator[StepGroups]:
    """Step groups in an event loop whose callbacks must not fail."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield StepGroups(cast(StoreSteps, store), GroupCommitSwitch())
    await asyncio.sleep(0)
    assert faults == []


async def numbers(groups: StepGroups, *commands: StepCommand) -> list[int | None]:
    """The number in each command's reply, or None if the step must run alone."""
    replies = await asyncio.gather(*(groups.run(command) for command in commands))
    return [getattr(reply, "number", None) for reply in replies]


async def test_steps_that_arrive_together_are_grouped_and_each_gets_its_own_reply(
    store: Store, groups: StepGroups
) -> None:
    assert await numbers(groups, *map(command, range(4))) == [0, 1, 2, 3]
    assert await numbers(groups, *map(command, range(6))) == [0, 1, 2, 3, 4, 5]
    assert await numbers(groups, *map(command, range(15))) == list(range(15))
    assert store.groups == [4, 6, 6, 6, 3]


async def test_a_single_step_and_one_that_may_not_be_grouped_run_alone(store: Store, groups: StepGroups) -> None:
    assert await numbers(groups, command(1)) == [None]
    assert await numbers(groups, command(1, "other.lonely"), command(2), command(3)) == [None, 2, 3]
    assert store.groups == [2]


async def test_after_failures_steps_run_alone_until_grouping_succeeds_again(store: Store, groups: StepGroups) -> None:
    store.succeeds = False
    for _ in range(10):
        assert await numbers(groups, command(1), command(2)) == [None, None]
    tried = len(store.groups)
    assert tried < 5
    store.succeeds = True
    for _ in range(600):
        await numbers(groups, command(1), command(2))

    assert await numbers(groups, command(1), command(2)) == [1, 2]
    assert tried < len(store.groups) < 600


async def test_a_group_that_takes_too_long_is_given_up(
    store: Store, groups: StepGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "_TIMEOUT", 0.01)
    store.blocked_until = asyncio.Event()
    assert await numbers(groups, command(1), command(2)) == [None, None]


async def test_a_cancelled_step_does_not_block_the_others_of_its_group(store: Store, groups: StepGroups) -> None:
    store.blocked_until = asyncio.Event()
    cancelled, remaining = (asyncio.create_task(groups.run(command(number))) for number in (1, 2))
    await store.began.wait()
    cancelled.cancel()
    store.blocked_until.set()
    assert await remaining == StepDone(number=2, operation="box.take", result=None)
