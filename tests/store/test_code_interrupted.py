"""An author's code that raises a `BaseException` fails its attempt, but neither the worker nor the saga."""

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
    remaining = [times]

    async def act(tx: Transaction) -> None:
        remaining[0] -= 1
        if remaining[0] >= 0:
            raise kind

    return act


async def exits(tx: Transaction) -> None:
    sys.exit(3)


async def cancels_its_own_task(tx: Transaction) -> None:
    helper = asyncio.ensure_future(asyncio.Event().wait())
    helper.cancel()
    await helper


async def raises_a_group(tx: Transaction) -> None:
    raise BaseExceptionGroup("a group", [GeneratorExit()])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_base_exception_in_an_operation_fails_the_attempt(stocked: Database, kind: type[BaseException]) -> None:
    before = await Holdings.of(stocked)
    Script.after["put"] = raises(kind)

    with pytest.raises(CodeInterrupted, match=rf"cast\.put raised {kind.__name__}"):
        await driver_of(stocked, CoinsMove, MOVE, "one").drive()
    outcome = await driver_of(stocked, CoinsMove, MOVE, "one").drive()

    assert outcome.phase is Phase.COMPLETED
    assert await Holdings.of(stocked) == before.moved("a", "b", 10)


@pytest.mark.parametrize("act", [exits, cancels_its_own_task, raises_a_group])
async def test_an_exit_a_cancelled_task_and_an_exception_group_fail_the_attempt(stocked: Database, act: Act) -> None:
    Script.after["put"] = act

    with pytest.raises(CodeInterrupted, match=r"cast\.put raised"):
        await driver_of(stocked, CoinsMove, MOVE, "one").drive()

    assert [row.phase for row in await rows(stocked, saga)] == ["forward"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_base_exception_in_a_compensation_is_counted_and_retried(
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
async def test_a_base_exception_in_an_atomic_step_fails_the_whole_step(
    stocked: Database, kind: type[BaseException]
) -> None:
    before = await Holdings.of(stocked)
    Script.after["put"] = raises(kind)
    event = AtomicMoveRequested(source="a", target="b", coins=10)

    with pytest.raises(CodeInterrupted, match=rf"cast\.put raised {kind.__name__}"):
        await driver_of(stocked, AtomicMove, event, "one").drive()

    assert await Holdings.of(stocked) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_base_exception_in_locks_is_reported_as_interrupted_code(kind: type[BaseException]) -> None:
    class Locking(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
        def locks(self, event: NothingRequested) -> list[str]:
            raise kind

        async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
            return NothingCompleted()

    with pytest.raises(BaseException, match=rf"Locking\.locks raised {kind.__name__}") as raised:
        lock_keys_of(Locking, NothingRequested(refuse=False))

    assert raised.type is CodeInterrupted


async def test_a_cancel_by_the_engine_passes_through_contained_code() -> None:
    async def work() -> None:
        with contained("an operation"):
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()

    with pytest.raises(asyncio.CancelledError):
        await working


async def test_the_engines_timeout_passes_through_contained_code() -> None:
    async def work() -> None:
        async with asyncio.timeout(0):
            with contained("an operation"):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await work()


def test_closing_a_coroutine_passes_through_contained_code() -> None:
    async def work() -> None:
        with contained("an operation"):
            await asyncio.Event().wait()

    async def begin() -> None:
        coroutine.send(None)

    coroutine = work()
    asyncio.run(begin())

    coroutine.close()


async def test_a_refusal_passes_through_contained_code() -> None:
    with pytest.raises(Refused), contained("an operation"):
        raise Refused("test.refused", "no")
