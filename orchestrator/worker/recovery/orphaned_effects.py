"""Effects outside that a dead worker left after its saga had ended: taken back by recovery, as nobody drives it."""

from collections.abc import Sequence
from datetime import datetime

from orchestrator.protocol.commands import StepState
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.external.undo import OrphanedEffect, left_standing, take_back_left
from orchestrator.worker.recovery.limits import Sweeping
from orchestrator.workflow.system.recovery import Action


async def next_left(sweeping: Sweeping, now: datetime, after: OrphanedEffect | None) -> Sequence[OrphanedEffect]:
    """A page of external steps that may have left something."""
    return await left_standing(sweeping.database, now=now, grace=sweeping.limits.grace, after=after)


async def settle_left(sweeping: Sweeping, left: OrphanedEffect) -> None:
    """Take back what one step left outside; for one of which nothing was seen, ask once more.

    Raises:
        Exception: what the compensation or the verification raised.
    """
    if left.operation not in sweeping.catalog.operations:
        return  # a worker that knows it will
    workflow_id = workflow_id_of(left)
    why = f"step {left.number}, {left.operation}, stands outside and its saga has ended"
    if sweeping.dry_run:
        if left.state is not StepState.BARRED:
            sweeping.note(Action.TAKE_BACK, workflow_id, why)
        return
    async with sweeping.place() as has_place:
        if not has_place:
            sweeping.postpone(workflow_id, why)
        elif await take_back_left(sweeping.database, sweeping.catalog, left):
            sweeping.note(Action.TAKE_BACK, workflow_id, why)


def workflow_id_of(left: OrphanedEffect) -> str:
    """The saga's own execution, as people know it."""
    return own_workflow_id(left.saga.orchestrator, left.saga.event_id)
