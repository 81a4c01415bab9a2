"""What an author's code raises that is no `Exception` fails its attempt, and neither the worker nor the saga."""

import asyncio
import sys

import pytest

from orchestrator import Orchestrator, Refused, Saga, Transaction
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.containment import CodeInterrupted, contained
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from tests.cast import Act, Script, refuses
from tests.cast_events import (
    AtomicMoveRequested,
    CoinsMoveRequested,
    NothingCompleted,
    NothingFailed,
    NothingRequested,
)
from tests.house import Holdings, rows
from tests.orchestrators import AtomicMove, CoinsMove
from tests.store.pacing import driver_of

MOVE = CoinsMoveRequested(source="a", target="b", coins=10)
KINDS = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)


def raises(kind: type[BaseException], times: int = 1) -> Act:
    left = [times]

    async def act(tx: Transaction) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise kind

    return act


async def exits(tx: Transaction) -> None:
    sys.exit(3)


async def cancels_a_task_of_its_own(tx: Transaction) -> None:
    helper = asyncio.ensure_future(asyncio.Event().wait())
    helper.cancel()
    await helper


async def gathers_an_exit(tx: Transaction) -> None:
    raise BaseExceptionGroup("a group", [GeneratorExit()])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_operation_that_raises_it_is_a_failed_attempt(stocked: Database, kind: type[BaseException]) -> None:
    before = await Holdings.of(stocked)
    Script.after["put"] = raises(kind)

    with pytest.raises(CodeInterrupted, match=rf"cast\.put raised {kind.__name__}"):
        await driver_of(stocked, CoinsMove, MOVE, "one").drive()
    outcome = await driver_of(stocked, CoinsMove, MOVE, "one").drive()

    assert outcome.phase is Phase.COMPLETED
    assert await Holdings.of(stocked) == before.moved("a", "b", 10)


@pytest.mark.parametrize("act", [exits, cancels_a_task_of_its_own, gathers_an_exit])
async def test_however_it_comes_about_it_is_a_failed_attempt(stocked: Database, act: Act) -> None:
    Script.after["put"] = act

    with pytest.raises(CodeInterrupted, match=r"cast\.put raised"):
        await driver_of(stocked, CoinsMove, MOVE, "one").drive()

    assert [row.phase for row in await rows(stocked, saga)] == ["forward"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_compensation_that_raises_it_is_tried_again_and_counted(
    stocked: Database, kind: type[BaseException]
) -> None:
    before = await Holdings.of(stocked)
    Script.before |= {"write_note": refuses(), "take_out": raises(kind)}
    driver = driver_of(stocked, CoinsMove, MOVE, "one")

    with pytest.raises(CodeInterrupted, match=rf"the compensation of cast\.put raised {kind.__name__}"):
        await driver.drive()
    [failed] = [step for step in await rows(stocked, saga_step) if step.undo_attempts]
    assert kind.__name__ in failed.undo_error

    outcome = await driver_of(stocked, CoinsMove, MOVE, "one").drive()

    assert outcome.error_code == "box.refused"
    assert await Holdings.of(stocked) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_one_of_an_atomic_steps_operations_that_raises_it_fails_the_step(
    stocked: Database, kind: type[BaseException]
) -> None:
    before = await Holdings.of(stocked)
    Script.after["put"] = raises(kind)
    event = AtomicMoveRequested(source="a", target="b", coins=10)

    with pytest.raises(CodeInterrupted, match=rf"cast\.put raised {kind.__name__}"):
        await driver_of(stocked, AtomicMove, event, "one").drive()

    assert await Holdings.of(stocked) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_locks_that_raise_it_are_a_bug(kind: type[BaseException]) -> None:
    class Locking(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
        def locks(self, event: NothingRequested) -> list[str]:
            raise kind

        async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
            return NothingCompleted()

    with pytest.raises(BaseException, match=rf"Locking\.locks raised {kind.__name__}") as told:
        lock_keys_of(Locking, NothingRequested(refuse=False))

    assert told.type is CodeInterrupted


async def test_a_cancel_by_the_engine_passes_through() -> None:
    async def work() -> None:
        with contained("an operation"):
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_time_limit_of_the_engine_passes_through() -> None:
    async def work() -> None:
        async with asyncio.timeout(0):
            with contained("an operation"):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await work()


def test_a_coroutine_that_is_closed_passes_through() -> None:
    async def work() -> None:
        with contained("an operation"):
            await asyncio.Event().wait()

    async def begin() -> None:
        coroutine.send(None)

    coroutine = work()
    asyncio.run(begin())

    coroutine.close()


async def test_a_refusal_passes_through() -> None:
    with pytest.raises(Refused), contained("an operation"):
        raise Refused("test.refused", "no")
