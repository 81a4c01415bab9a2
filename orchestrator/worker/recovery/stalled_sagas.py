"""Recovers a stalled saga: finds out whether it has a live driver, and resumes or undoes it if not.

The status of the owner's chain of runs decides. If the chain runs, nothing is done. If it was terminated, an operator
wants the saga ended, so the saga is undone, or resumed if it is past its pivot. Any other end is an accident, so the
saga is resumed.
"""

import asyncio

from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.protocol.names import is_partition, own_workflow_id
from orchestrator.store.recovery import RecordedSaga, UndoAnswer, recorded_sagas, undo_if_still_owned, would_undo
from orchestrator.worker.recovery.execution_status import (
    ExecutionStatus,
    status_of_chain,
    status_of_execution,
    why_terminated,
)
from orchestrator.worker.recovery.failing_executions import undo_if_decided
from orchestrator.worker.recovery.limits import SweepState
from orchestrator.workflow.system.recovery import Action


async def recover_saga(sweep: SweepState, recorded: RecordedSaga) -> Action | None:
    """Check one saga, and resume or undo it if it has no live driver.

    Returns:
        The action, or None if nothing had to be done, because the saga is driven or has ended.

    Raises:
        temporalio.service.RPCError: the server does not answer, or did not accept the request.
    """
    sweep.seen.add(recorded.id)
    if await _is_carried(sweep, recorded):
        sweep.alive += 1
        return None
    own = await status_of_execution(sweep.client, own_workflow_id(recorded.orchestrator, recorded.event_id))
    last = await _last_driver(sweep, recorded, own)
    if own.runs or last.runs:
        driver = last if last.runs else own
        action = await undo_if_decided(sweep, recorded, driver) if driver.keeps_failing else None
        sweep.alive += action is None
        return action
    envelope = _event_of(sweep, recorded)
    if isinstance(envelope, str):
        return sweep.note(Action.LEAVE, own.workflow_id, envelope)
    async with sweep.slot() as has_slot:
        if not has_slot:
            return sweep.postpone(own.workflow_id, str(last))
        decision = await _decide(sweep, recorded, last)
        if decision is None:
            return None
        action, reason = decision
        undoes = action is Action.UNDO or recorded.phase is Phase.UNDOING
        await sweep.drive(recorded.orchestrator, envelope, own, undoes=undoes)
    return sweep.note(action, own.workflow_id, reason)


async def _is_carried(sweep: SweepState, recorded: RecordedSaga) -> bool:
    """Return whether a running partition carries the saga. A sweep asks the server only once about each partition."""
    owner = recorded.owner_workflow_id
    if not is_partition(owner):
        return False
    request = sweep.partitions.get(owner)
    if request is None:
        request = sweep.partitions[owner] = asyncio.ensure_future(status_of_execution(sweep.client, owner))
    partition = await asyncio.shield(request)
    return partition.runs and partition.first_run_id == recorded.owner_first_run_id


async def _decide(sweep: SweepState, recorded: RecordedSaga, last: ExecutionStatus) -> tuple[Action, str] | None:
    """Decide whether the saga is undone or resumed, and why. Return None if it has ended or has a new owner."""
    # A terminated partition does not undo its sagas, because its termination does not ask for the end of all of them.
    was_ended = last.was_terminated and not is_partition(last.workflow_id)
    reason = await why_terminated(sweep.client, last) if was_ended else None
    if reason is None or recorded.phase is not Phase.FORWARD:
        return None if await _has_ended(sweep, recorded) else (Action.RESUME, str(last))
    message = f"its execution was terminated: {reason}" if reason else "its execution was terminated"
    undo = would_undo(sweep.databases, recorded) if sweep.dry_run else None
    match await (undo or undo_if_still_owned(sweep.databases, recorded, message)):
        case UndoAnswer.UNDOING:
            return Action.UNDO, message
        case UndoAnswer.PAST_PIVOT:
            return Action.RESUME, f"{last}, and it is past its pivot"
        case UndoAnswer.ENDED | UndoAnswer.OWNER_CHANGED:
            return None


async def _has_ended(sweep: SweepState, recorded: RecordedSaga) -> bool:
    """Return whether the saga has ended in the meantime; its execution may have finished it since the row was read."""
    rows = await recorded_sagas(sweep.databases.home, [recorded.id])
    return recorded.id in rows and rows[recorded.id].phase.is_final


async def _last_driver(sweep: SweepState, recorded: RecordedSaga, own: ExecutionStatus) -> ExecutionStatus:
    """Return the execution that drove the saga last: its owner's chain, or its own execution if that ended later."""
    latest = own
    if recorded.owner_workflow_id not in ("", own.workflow_id):
        latest = await status_of_execution(sweep.client, recorded.owner_workflow_id)
    owner = await status_of_chain(sweep.client, latest.workflow_id, recorded.owner_first_run_id, latest)
    return owner if owner.runs else max(owner, own, key=lambda status: status.closed_at)


def _event_of(sweep: SweepState, recorded: RecordedSaga) -> Envelope | str:
    """Return the saga's event, or the reason why the saga cannot be driven here."""
    orchestrator = sweep.catalog.orchestrators.get(recorded.orchestrator)
    if orchestrator is None:
        return f"the orchestrator {recorded.orchestrator} is unknown here; start a worker that has it"
    try:
        envelope = read(recorded.envelope)
        unwrap(envelope, *orchestrator.requests)
    except UnreadableEvent as fault:
        if fault.is_newer:
            return read(recorded.envelope)  # its execution waits for a newer worker
        # An execution would store the event as a dead letter and end, and the next sweep would start another one.
        return f"its event cannot be read here ({fault}); start a worker that knows its contract"
    return envelope
