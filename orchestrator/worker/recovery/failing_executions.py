"""Undoes sagas that must be undone although their execution's workflow task keeps failing.

A bug in `handle` undoes nothing and waits for a fix. But a cancellation, a passed deadline, or an undo that has already
begun must not wait for a fix, and the execution could process it only after replaying the failing code. So the decision
is written to the database, and the execution restarts with an empty history and the signal `undo`, which makes it undo
the saga without running the author's code.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.drive.driver import CANCELLED, DEADLINE_EXCEEDED, too_late
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.clock import read_clock
from orchestrator.store.recovery import RecordedSaga, UndoAnswer, recorded_sagas, undo_if_still_owned, would_undo
from orchestrator.worker.recovery.execution_status import ExecutionStatus
from orchestrator.worker.recovery.limits import SweepState
from orchestrator.workflow.system.recovery import Action

_log = logging.getLogger(__name__)

_FAILED = 'TemporalReportedProblems IN ("category=WorkflowTaskFailed")'
_HISTORY_PAGE = 100
"""How many of the newest history events are searched for the cancellation request. Failed attempts add no events."""


async def undo_if_decided(sweep: SweepState, recorded: RecordedSaga, execution: ExecutionStatus) -> Action | None:
    """Undo a saga whose execution keeps failing, if it was cancelled, is past its deadline, or is being undone already.

    Args:
        sweep: the sweep.
        recorded: the saga.
        execution: the running execution that drives the saga.

    Returns:
        The action, or None if the saga need not be undone and its execution waits for a fix.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    if recorded.orchestrator not in sweep.catalog.orchestrators:
        return None
    if recorded.phase is Phase.UNDOING:
        reason = "the saga must be undone"
    else:
        request = await _undo_request(sweep, recorded, execution)
        if request is None or await _begin_undo(sweep, recorded, request) is not UndoAnswer.UNDOING:
            return None
        reason = request.message
    async with sweep.slot() as has_slot:
        if not has_slot:
            return sweep.postpone(execution.workflow_id, reason)
        await sweep.begin_again(execution, cancelled=execution.is_cancel_requested)
    return sweep.note(Action.UNDO, execution.workflow_id, f"{reason}; its workflow task fails, so it begins again")


async def failing_sagas(sweep: SweepState) -> Sequence[RecordedSaga]:
    """Return unfinished sagas whose own execution the server reports as failing, except those already checked.

    Nothing else would find a failing saga that sleeps, because a sleeping saga does not count as stalled.
    """
    types = ", ".join(f'"{name}"' for name in sweep.catalog.orchestrators)
    of_these = f'TaskQueue = "{sweep.task_queue}" AND WorkflowType IN ({types})'
    query = f'ExecutionStatus = "Running" AND {of_these} AND {_FAILED}'
    ids: list[UUID] = []
    try:
        async for run in sweep.client.list_workflows(query, limit=sweep.limits.ceiling):
            event_id = run.id.removeprefix(own_workflow_id(run.workflow_type, ""))
            if event_id != run.id:
                ids.append(saga_id(run.workflow_type, event_id))
    except RPCError as fault:
        if fault.status not in (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED):
            raise
        _log.debug("this server does not report failing workflow tasks: %s", fault.message)
    rows = await recorded_sagas(sweep.databases.home, [key for key in ids if key not in sweep.seen])
    return [recorded for recorded in rows.values() if not recorded.phase.is_final]


@dataclass(frozen=True, slots=True)
class _UndoRequest:
    """A reason to undo a saga: its cancellation or its deadline."""

    ends_as: Phase
    error_code: str
    message: str


async def _begin_undo(sweep: SweepState, recorded: RecordedSaga, request: _UndoRequest) -> UndoAnswer:
    if sweep.dry_run:
        return await would_undo(sweep.databases, recorded)
    return await undo_if_still_owned(
        sweep.databases, recorded, request.message, ends_as=request.ends_as, error_code=request.error_code
    )


async def _undo_request(sweep: SweepState, recorded: RecordedSaga, execution: ExecutionStatus) -> _UndoRequest | None:
    """Return why the saga must be undone: its deadline, or a cancellation not yet processed by its execution."""
    if execution.is_cancel_requested:
        reason = await _why_cancelled(sweep.client, execution)
        message = "cancelled while its workflow task failed" + (f": {reason}" if reason else "")
        return _UndoRequest(Phase.CANCELLED, CANCELLED, message)
    orchestrator = sweep.catalog.orchestrators[recorded.orchestrator]
    age = await read_clock(sweep.databases.home) - recorded.created_at
    if orchestrator.deadline is not None and age > orchestrator.deadline:
        return _UndoRequest(Phase.FAILED, DEADLINE_EXCEEDED, too_late(orchestrator))
    return None


async def _why_cancelled(client: Client, execution: ExecutionStatus) -> str:
    newest = await client.workflow_service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=execution.workflow_id, run_id=execution.run_id),
            maximum_page_size=_HISTORY_PAGE,
        )
    )
    for event in newest.history.events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
            return event.workflow_execution_cancel_requested_event_attributes.cause
    return ""
