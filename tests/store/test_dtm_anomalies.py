"""The three anomalies that DTM's sub-transaction barrier prevents, with real concurrent transactions.

They are (https://en.dtm.pub/practice/barrier.html) a repeated request, a compensation without its operation (empty),
and an operation that arrives after its compensation (hanging). Each is tested with the operation's transaction open
while the other side commits, and the other way round. SQLite has one writer, so the second transaction waits.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.protocol.commands import (
    BeginUndoCommand,
    Decided,
    Opening,
    Phase,
    SagaRef,
    StepCommand,
    StepDone,
    StepReply,
    UndoCommand,
    UndoPlan,
)
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga import fence
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Gate, Script, fails
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG, Holdings, eventually, rows
from tests.orchestrators import CoinsMove
from tests.store.pacing import waits_for_lock

TIME = datetime(2026, 1, 1, tzinfo=UTC)
SAGA = SagaRef(id=saga_id(CoinsMove.__name__, "one"), orchestrator=CoinsMove.__name__, event_id="one")
EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
OPENING = Opening(saga=SAGA, envelope=wrap(EVENT, event_id="one", source="tests", time=TIME).text)
TAKE = StepCommand(
    saga=SAGA,
    number=1,
    operation="cast.take",
    arguments={"name": "a", "coins": 10},
    event_time=TIME.isoformat(),
    opening=OPENING,
)
AGAIN = TAKE.model_copy(update={"opening": None})


async def undo_all(database: Database) -> list[int]:
    """Begin the undo and undo the completed steps; returns the numbers of the undone steps."""
    steps = StoreSteps(database, CATALOG)
    plan = await steps.begin_undo(
        BeginUndoCommand(opening=OPENING, ends_as=Phase.CANCELLED, error_code="saga.cancelled", message="by a test")
    )
    assert isinstance(plan, UndoPlan)
    for step in plan.steps:
        command = UndoCommand(saga=SAGA, number=step.number, operation=step.operation, event_time=TIME.isoformat())
        await steps.undo(command, step.compensation)
    return [step.number for step in plan.steps]


@asynccontextmanager
async def suspended_operation(database: Database, gate: Gate) -> AsyncGenerator["asyncio.Task[StepReply]"]:
    """An operation whose transaction is open, its effect written and not committed."""
    Script.after["take"] = gate
    operation = asyncio.create_task(run_step(database, CATALOG, TAKE))
    await gate.reached.wait()
    del Script.after["take"]
    yield operation
    gate.opened.set()
    await asyncio.wait({operation})


async def until_waiting(database: Database, other: "asyncio.Task[Any]") -> None:
    """Wait until the other side waits for the open transaction."""

    async def waits() -> bool:
        return other.done() or await waits_for_lock(database)

    await eventually(waits, "the other side waits")
    assert not other.done()


class TestRepeatedRequest:
    """The same step is requested twice."""

    async def test_a_second_request_waits_for_the_first_and_gets_its_result(self, stocked: Database) -> None:
        gate = Gate()
        async with suspended_operation(stocked, gate) as first:
            second = asyncio.create_task(run_step(stocked, CATALOG, TAKE))
            await until_waiting(stocked, second)
            gate.opened.set()

            assert await first == await second == StepDone(number=1, operation="cast.take", result=10)
        assert Script.runs == ["take"]
        assert (await Holdings.of(stocked)).boxes["a"] == 990

    async def test_a_second_request_runs_the_step_when_the_first_fails(self, stocked: Database) -> None:
        gate = Gate()
        async with suspended_operation(stocked, gate) as first:
            second = asyncio.create_task(run_step(stocked, CATALOG, TAKE))
            await until_waiting(stocked, second)
            first.cancel()

            assert await second == StepDone(number=1, operation="cast.take", result=10)
        assert Script.runs == ["take", "take"]
        assert (await Holdings.of(stocked)).boxes["a"] == 990


class TestEmptyCompensation:
    """An operation is undone that was never done."""

    async def test_an_undo_before_the_operation_began_compensates_nothing(self, stocked: Database) -> None:
        assert await undo_all(stocked) == []
        assert Script.runs == []
        assert (await Holdings.of(stocked)).boxes["a"] == 1000

    async def test_an_undo_after_a_failed_attempt_compensates_nothing(self, stocked: Database) -> None:
        Script.after["take"] = fails()
        with pytest.raises(RuntimeError):
            await run_step(stocked, CATALOG, TAKE)

        assert await undo_all(stocked) == []
        assert "give_back" not in Script.runs
        assert (await Holdings.of(stocked)).boxes["a"] == 1000

    async def test_an_undo_waits_for_an_open_operation_and_compensates_it(self, stocked: Database) -> None:
        """The compensation cannot commit before the operation has committed or rolled back."""
        gate = Gate()
        async with suspended_operation(stocked, gate) as operation:
            undo = asyncio.create_task(undo_all(stocked))
            await until_waiting(stocked, undo)
            gate.opened.set()

            assert await operation == StepDone(number=1, operation="cast.take", result=10)
            assert await undo == [1]
        assert Script.runs == ["take", "give_back"]
        assert (await Holdings.of(stocked)).boxes["a"] == 1000

    async def test_an_undo_waits_for_an_operation_that_fails_and_compensates_nothing(self, stocked: Database) -> None:
        gate = Gate()
        async with suspended_operation(stocked, gate) as operation:
            undo = asyncio.create_task(undo_all(stocked))
            await until_waiting(stocked, undo)
            operation.cancel()

            assert await undo == []
        assert Script.runs == ["take"]
        assert (await Holdings.of(stocked)).boxes["a"] == 1000


class TestHanging:
    """An operation runs after its compensation, so that nothing would ever undo it."""

    async def test_an_attempt_that_comes_after_the_undo_does_nothing(self, stocked: Database) -> None:
        await undo_all(stocked)

        assert await run_step(stocked, CATALOG, TAKE) == Decided(phase=Phase.UNDOING)
        assert await run_step(stocked, CATALOG, AGAIN) == Decided(phase=Phase.UNDOING)
        assert Script.runs == []
        assert (await Holdings.of(stocked)).boxes["a"] == 1000
        assert await rows(stocked, saga_step) == []

    async def test_an_attempt_that_repeats_an_undone_step_does_nothing(self, stocked: Database) -> None:
        await run_step(stocked, CATALOG, TAKE)
        assert await undo_all(stocked) == [1]

        assert await run_step(stocked, CATALOG, AGAIN) == Decided(phase=Phase.UNDOING)
        assert Script.runs == ["take", "give_back"]
        assert (await Holdings.of(stocked)).boxes["a"] == 1000

    async def test_an_undo_commits_before_an_open_operation_has_claimed_its_step(
        self, stocked: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if stocked.dialect == "sqlite":
            pytest.skip(
                "SQLite has one writer, so the undo waits until an open transaction ends, as the other tests show"
            )
        gate, claim = Gate(), fence.claim

        async def claim_late(*arguments: Any, **options: Any) -> Any:
            connection = arguments[0]
            await connection.exec_driver_sql("SELECT 1")  # so that the transaction is open on the server too
            await gate(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            return await claim(*arguments, **options)

        monkeypatch.setattr(fence, "claim", claim_late)
        operation = asyncio.create_task(run_step(stocked, CATALOG, TAKE))
        await gate.reached.wait()

        assert await undo_all(stocked) == []
        gate.opened.set()

        assert await operation == Decided(phase=Phase.UNDOING)
        assert Script.runs == []
        assert (await Holdings.of(stocked)).boxes["a"] == 1000
