"""Sagas of which nothing was heard for a while: who drives each, and what is to be done if nobody does.

The owner's chain of runs decides, asked of the server: it runs, so the saga is left alone; it was terminated, so a
person wants it ended, and it is undone (past its pivot it goes on); anything else is an accident, and it goes on.
"""

import asyncio

from orchestrator.protocol.commands import Phase
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read
from orchestrator.protocol.names import is_partition, own_workflow_id
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.store.recovery import (
    RecordedSaga,
    UndoAnswer,
    recorded_sagas,
    undo_if_still_owned,
    would_undo,
)
from orchestrator.worker.recovery.execution_status import (
    ExecutionStatus,
    status_of_chain,
    status_of_execution,
    why_terminated,
)
from orchestrator.worker.recovery.failing_executions import carry_out
from orchestrator.worker.recovery.limits import Sweeping
from orchestrator.workflow.system.recovery import Action


async def recover_saga(sweeping: Sweeping, recorded: RecordedSaga) -> Action | None:
    """Look at one saga, and see that it ends.

    Returns:
        What was done; None if there was nothing to do, since it is driven or has ended.

    Raises:
        temporalio.service.RPCError: the server does not answer, or did not take it.
    """
    sweeping.seen.add(recorded.id)
    if await _is_carried(sweeping, recorded):
        sweeping.alive += 1
        return None
    own = await status_of_execution(sweeping.client, own_workflow_id(recorded.orchestrator, recorded.event_id))
    last = await _last_driver(sweeping, recorded, own)
    if own.runs or last.runs:
        driver = last if last.runs else own
        done = await carry_out(sweeping, recorded, driver) if driver.keeps_failing else None
        sweeping.alive += done is None
        return done
    envelope = _event_of(sweeping, recorded)
    if isinstance(envelope, str):
        return sweeping.note(Action.LEAVE, own.workflow_id, envelope)
    async with sweeping.place() as has_place:
        if not has_place:
            return sweeping.postpone(own.workflow_id, str(last))
        decided = await _decide(sweeping, recorded, last)
        if decided is None:
            return None
        undoes = decided[0] is Action.UNDO or recorded.phase is Phase.UNDOING
        await sweeping.drive(recorded.orchestrator, envelope, own, undoes=undoes)
    return sweeping.note(decided[0], own.workflow_id, decided[1])


async def _is_carried(sweeping: Sweeping, recorded: RecordedSaga) -> bool:
    """Whether a partition that runs has it: asked once a sweep for each partition, not for each of its sagas."""
    owner = recorded.owner_workflow_id
    if not is_partition(owner):
        return False
    asked = sweeping.partitions.get(owner)
    if asked is None:
        asked = sweeping.partitions[owner] = asyncio.ensure_future(status_of_execution(sweeping.client, owner))
    fate = await asyncio.shield(asked)
    return fate.runs and fate.first_run_id == recorded.owner_first_run_id


async def _decide(sweeping: Sweeping, recorded: RecordedSaga, last: ExecutionStatus) -> tuple[Action, str] | None:
    """Whether it is undone or goes on, and why. None: others were faster."""
    # A partition is no saga: who terminates it wants the carrier gone, not everything undone that it carries.
    ended = last.was_terminated and not is_partition(last.workflow_id)
    reason = await why_terminated(sweeping.client, last) if ended else None
    if reason is None or recorded.phase is not Phase.FORWARD:
        return None if await _has_ended(sweeping, recorded) else (Action.RESUME, str(last))
    message = f"its execution was terminated: {reason}" if reason else "its execution was terminated"
    undo = would_undo(sweeping.databases, recorded) if sweeping.dry_run else None
    match await (undo or undo_if_still_owned(sweeping.databases, recorded, message)):
        case UndoAnswer.UNDOING:
            return Action.UNDO, message
        case UndoAnswer.PAST_PIVOT:
            return Action.RESUME, f"{last}, and it is past its pivot"
        case UndoAnswer.ENDED | UndoAnswer.OWNER_CHANGED:
            return None


async def _has_ended(sweeping: Sweeping, recorded: RecordedSaga) -> bool:
    """Whether it has, now that nobody drives it: its execution may have come to its end since the row was read."""
    now = await recorded_sagas(sweeping.databases.home, [recorded.id])
    return recorded.id in now and now[recorded.id].phase.is_final


async def _last_driver(sweeping: Sweeping, recorded: RecordedSaga, own: ExecutionStatus) -> ExecutionStatus:
    """The execution that drove it last: its owner's chain, or the saga's own execution if that ended later."""
    latest = own
    if recorded.owner_workflow_id not in ("", own.workflow_id):
        latest = await status_of_execution(sweeping.client, recorded.owner_workflow_id)
    owner = await status_of_chain(sweeping.client, latest.workflow_id, recorded.owner_first_run_id, latest)
    return owner if owner.runs else max(owner, own, key=lambda fate: fate.closed_at)


def _event_of(sweeping: Sweeping, recorded: RecordedSaga) -> Envelope | str:
    """The saga's event, or why it cannot be driven here."""
    orchestrator = sweeping.catalog.orchestrators.get(recorded.orchestrator)
    if orchestrator is None:
        return f"no orchestrator {recorded.orchestrator} is known here: start a worker that has it"
    try:
        envelope = read(recorded.envelope)
        unwrap(envelope, *orchestrator.requests)
    except UnreadableEvent as fault:
        if fault.is_newer:
            return read(recorded.envelope)  # its execution waits for a worker that can
        # Its execution would keep the event as a dead letter and end, and the next sweep would start the next one.
        return f"its event cannot be read here ({fault}): start a worker that knows its contract"
    return envelope
