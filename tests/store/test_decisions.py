"""The decision to undo stands whatever code the workers have that carry it out."""

import pytest

from orchestrator import Transaction
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import BeginUndoCommand, Phase, Reused, UndoPlan
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.store.saga.intervention import Skip, skip_step
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.store.saga.undo import UnknownCompensation
from tests import cast
from tests.cast import Script
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG, Holdings, opening_of, rows
from tests.orchestrators import CoinsMove
from tests.store.pacing import driver_of

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
RENAMED = Catalog.of(orchestrators=[CoinsMove], operations=[cast.put, cast.write_note])
"""Today's code, in which `cast.take` has another name."""
TURN = BeginUndoCommand(
    opening=opening_of(CoinsMove, EVENT, "one"),
    ends_as=Phase.CANCELLED,
    error_code="saga.cancelled",
    message="by a test",
)


async def a_saga_with_its_first_step_done(database: Database) -> None:
    async def lost(tx: Transaction) -> None:
        raise LookupError

    Script.before["put"] = lost
    with pytest.raises(LookupError):
        await driver_of(database, CoinsMove, EVENT, "one").drive()
    Script.clear()


async def test_an_operation_that_the_code_no_longer_has_is_named_and_the_decision_stands(stocked: Database) -> None:
    before = await Holdings.of(stocked)
    await a_saga_with_its_first_step_done(stocked)

    with pytest.raises(UnknownCompensation, match=r"step 1 .* no operation cast\.take\. Deploy code that has it"):
        await StoreSteps(stocked, RENAMED).begin_undo(TURN)

    [row] = await rows(stocked, saga)
    assert (row.phase, row.reason, row.stuck_step) == ("undoing", "cancelled", 1)
    assert "cast.take" in row.stuck_error

    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").drive()  # of a worker that has it

    [row] = await rows(stocked, saga)
    assert (outcome.phase, row.phase, row.stuck_step) == (Phase.CANCELLED, "cancelled", None)
    assert await Holdings.of(stocked) == before


async def test_it_may_be_skipped_and_the_saga_ends(stocked: Database) -> None:
    await a_saga_with_its_first_step_done(stocked)
    steps = StoreSteps(stocked, RENAMED)
    with pytest.raises(UnknownCompensation):
        await steps.begin_undo(TURN)
    [row] = await rows(stocked, saga)

    await skip_step(stocked, RENAMED, Skip(saga_id=row.id, number=1, by="a test", reason="paid back by hand"))
    plan = await steps.begin_undo(TURN)

    assert isinstance(plan, UndoPlan)
    assert plan.steps == ()


async def test_a_turn_of_what_is_only_recorded_writes_no_row(stocked: Database) -> None:
    reply = await StoreSteps(stocked, CATALOG).begin_undo(TURN.model_copy(update={"only_recorded": True}))

    assert reply == Reused()
    assert await rows(stocked, saga) == []
