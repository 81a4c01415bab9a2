"""Which steps go together: those that come at once, as long as it goes well."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast
from uuid import uuid4

import pytest

from orchestrator.protocol.commands import SagaRef, StepCommand, StepDone, StepReply
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.partition import group_commit as step_groups
from orchestrator.worker.partition.group_commit import Odds, StepGroups


class Store:
    """Tells what was attempted together, and goes well or not."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.goes_well = True
        self.standstill: asyncio.Event | None = None
        self.began = asyncio.Event()

    def may_go_together(self, command: StepCommand) -> bool:
        return command.operation != "other.lonely"

    async def run_together(self, commands: Sequence[StepCommand], contexts: Sequence[Any]) -> list[StepReply] | None:
        assert len(contexts) == len(commands)
        self.groups.append(len(commands))
        self.began.set()
        if self.standstill is not None:
            await self.standstill.wait()
        await asyncio.sleep(0)
        if not self.goes_well:
            return None
        return [StepDone(number=one.number, operation=one.operation, result=None) for one in commands]


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
    """In a loop whose callbacks must not fail."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield StepGroups(cast(StoreSteps, store), Odds())
    await asyncio.sleep(0)
    assert faults == []


async def numbers(groups: StepGroups, *commands: StepCommand) -> list[int | None]:
    """What each is told by its number; None: it is to go alone."""
    replies = await asyncio.gather(*(groups.run(one) for one in commands))
    return [getattr(reply, "number", None) for reply in replies]


async def test_those_that_come_at_once_go_together_and_each_is_told_its_own(store: Store, groups: StepGroups) -> None:
    assert await numbers(groups, *map(command, range(4))) == [0, 1, 2, 3]
    assert await numbers(groups, *map(command, range(6))) == [0, 1, 2, 3, 4, 5]
    assert await numbers(groups, *map(command, range(15))) == list(range(15))
    assert store.groups == [4, 6, 6, 6, 3]


async def test_one_alone_and_one_that_may_not_go_alone(store: Store, groups: StepGroups) -> None:
    assert await numbers(groups, command(1)) == [None]
    assert await numbers(groups, command(1, "other.lonely"), command(2), command(3)) == [None, 2, 3]
    assert store.groups == [2]


async def test_where_it_goes_badly_each_goes_alone_until_it_goes_well_again(store: Store, groups: StepGroups) -> None:
    store.goes_well = False
    for _ in range(10):
        assert await numbers(groups, command(1), command(2)) == [None, None]
    tried = len(store.groups)
    assert tried < 5
    store.goes_well = True
    for _ in range(600):
        await numbers(groups, command(1), command(2))

    assert await numbers(groups, command(1), command(2)) == [1, 2]
    assert tried < len(store.groups) < 600


async def test_what_takes_long_together_is_given_up(
    store: Store, groups: StepGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_groups, "_LONGEST", 0.01)
    store.standstill = asyncio.Event()
    assert await numbers(groups, command(1), command(2)) == [None, None]


async def test_one_that_is_waited_for_no_more_does_not_hinder_the_others(store: Store, groups: StepGroups) -> None:
    store.standstill = asyncio.Event()
    left, stays = (asyncio.create_task(groups.run(command(number))) for number in (1, 2))
    await store.began.wait()
    left.cancel()
    store.standstill.set()
    assert await stays == StepDone(number=2, operation="box.take", result=None)
