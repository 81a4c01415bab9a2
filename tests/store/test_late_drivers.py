"""A step or a finish that comes after the decision to undo, but before the first compensation, has no effect."""

import asyncio
from datetime import UTC, datetime

from orchestrator.protocol.commands import BeginUndoCommand, Decided, Opening, Phase, SagaRef, StepCommand
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox, saga_step
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Script
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG, Holdings, rows
from tests.orchestrators import CoinsMove
from tests.store.pacing import Pacer, driver_of, until_stopped

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
TIME = datetime(2026, 1, 1, tzinfo=UTC)
SAGA = SagaRef(id=saga_id("CoinsMove", "one"), orchestrator="CoinsMove", event_id="one")
OPENING = Opening(saga=SAGA, envelope=wrap(EVENT, event_id="one", source="tests", time=TIME).text)
BEGIN_UNDO = BeginUndoCommand(
    opening=OPENING, ends_as=Phase.CANCELLED, error_code="saga.cancelled", message="by a test"
)


def step(number: int, operation: str, *, opening: Opening | None = None) -> StepCommand:
    """The command for a step of CoinsMove."""
    arguments = {"name": "a" if number == 1 else "b", "coins": 10}
    return StepCommand(
        saga=SAGA,
        number=number,
        operation=operation,
        arguments=dict(arguments),
        event_time=TIME.isoformat(),
        opening=opening,
    )


async def test_a_step_between_the_decision_to_undo_and_the_first_compensation_does_not_run(stocked: Database) -> None:
    """The list of steps to undo is complete once the undo is decided, so no step may be added afterwards."""
    await run_step(stocked, CATALOG, step(1, "cast.take", opening=OPENING))
    await StoreSteps(stocked, CATALOG).begin_undo(BEGIN_UNDO)

    reply = await run_step(stocked, CATALOG, step(2, "cast.put"))

    assert reply == Decided(phase=Phase.UNDOING)
    assert Script.runs == ["take"]
    assert [row.number for row in await rows(stocked, saga_step)] == [1]


async def test_a_finish_after_the_decision_to_undo_does_not_complete_the_saga(stocked: Database) -> None:
    """All steps are done and only the outcome is missing, but the decision to undo came first."""
    before = await Holdings.of(stocked)
    stop = Pacer("before finish")
    forward = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "one", stop, time=TIME).drive())
    await until_stopped(stocked, stop, forward)
    await StoreSteps(stocked, CATALOG).begin_undo(BEGIN_UNDO)

    stop.go_on.set()
    outcome = await forward

    assert outcome.phase is Phase.CANCELLED
    assert before == await Holdings.of(stocked)
    assert len(await rows(stocked, saga_outbox)) == 1
