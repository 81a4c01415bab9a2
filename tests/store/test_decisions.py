"""The decision to undo is final, whichever version of the code carries it out."""

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
"""A later version of the code, in which `cast.take` has another name."""
BEGIN_UNDO = BeginUndoCommand(
    opening=opening_of(CoinsMove, EVENT, "one"),
    ends_as=Phase.CANCELLED,
    error_code="saga.cancelled",
    message="by a test",
)


async def add_saga_with_its_first_step_done(database: Database) -> None:
    async def lost(tx: Transaction) -> None:
        raise LookupError

    Script.before["put"] = lost
    with pytest.raises(LookupError):
        await driver_of(database, CoinsMove, EVENT, "one").drive()
    Script.clear()


async def test_an_undo_whose_operation_is_gone_names_it_and_resumes_with_code_that_has_it(stocked: Database) -> None:
    before = await Holdings.of(stocked)
    await add_saga_with_its_first_step_done(stocked)

    with pytest.raises(UnknownCompensation, match=r"step 1 .* no operation cast\.take\. Deploy code that has it"):
        await StoreSteps(stocked, RENAMED).begin_undo(BEGIN_UNDO)

    [row] = await rows(stocked, saga)
    assert (row.phase, row.reason, row.stuck_step) == ("undoing", "cancelled", 1)
    assert "cast.take" in row.stuck_error

    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").drive()  # by a worker that has the operation

    [row] = await rows(stocked, saga)
    assert (outcome.phase, row.phase, row.stuck_step) == (Phase.CANCELLED, "cancelled", None)
    assert await Holdings.of(stocked) == before


async def test_a_step_whose_operation_is_gone_can_be_skipped(stocked: Database) -> None:
    await add_saga_with_its_first_step_done(stocked)
    steps = StoreSteps(stocked, RENAMED)
    with pytest.raises(UnknownCompensation):
        await steps.begin_undo(BEGIN_UNDO)
    [row] = await rows(stocked, saga)

    await skip_step(stocked, RENAMED, Skip(saga_id=row.id, number=1, by="a test", reason="paid back by hand"))
    plan = await steps.begin_undo(BEGIN_UNDO)

    assert isinstance(plan, UndoPlan)
    assert plan.steps == ()


async def test_beginning_to_undo_only_a_recorded_saga_writes_no_row(stocked: Database) -> None:
    reply = await StoreSteps(stocked, CATALOG).begin_undo(BEGIN_UNDO.model_copy(update={"only_recorded": True}))

    assert reply == Reused()
    assert await rows(stocked, saga) == []
