"""Undoes orphaned effects: external effects that a dead worker left behind after its saga had ended."""

from collections.abc import Sequence
from datetime import datetime

from orchestrator.protocol.commands import StepState
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.external.undo import OrphanedEffect, orphaned_effects, undo_orphan
from orchestrator.worker.recovery.limits import SweepState
from orchestrator.workflow.system.recovery import Action


async def next_orphaned_effects(
    sweep: SweepState, now: datetime, after: OrphanedEffect | None
) -> Sequence[OrphanedEffect]:
    """Return the next page of external steps that may have left an effect behind."""
    return await orphaned_effects(sweep.database, now=now, grace=sweep.limits.grace, after=after)


async def undo_orphaned_effect(sweep: SweepState, effect: OrphanedEffect) -> None:
    """Undo one orphaned effect. If it is not known whether the call happened, ask the service first.

    Raises:
        Exception: the error of the compensation or the verification.
    """
    if effect.operation not in sweep.catalog.operations:
        return  # a worker that knows the operation will undo it
    workflow_id = workflow_id_of(effect)
    why = f"step {effect.number}, {effect.operation}, has left an external effect and its saga has ended"
    if sweep.dry_run:
        if effect.state is not StepState.BARRED:
            sweep.note(Action.TAKE_BACK, workflow_id, why)
        return
    async with sweep.slot() as has_slot:
        if not has_slot:
            sweep.postpone(workflow_id, why)
        elif await undo_orphan(sweep.database, sweep.catalog, effect):
            sweep.note(Action.TAKE_BACK, workflow_id, why)


def workflow_id_of(effect: OrphanedEffect) -> str:
    """Return the workflow id of the saga's own execution, which is how operators refer to the saga."""
    return own_workflow_id(effect.saga.orchestrator, effect.saga.event_id)
