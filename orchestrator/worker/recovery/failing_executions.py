"""Executions whose workflow task fails each time, although something is decided about their sagas.

A bug in `handle` undoes nothing and waits for a fix. But a cancel, a deadline that is past, or an undoing that the
database already knows must not wait for one: the execution would hear of it only after it has replayed that code. So
the decision is written to the database, and the execution begins again with an empty history and the signal `undo`, on
which it undoes without the author's code.
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
from orchestrator.protocol.envelope import saga_id
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.clock import read_clock
from orchestrator.store.recovery import (
    RecordedSaga,
    UndoAnswer,
    recorded_sagas,
    undo_if_still_owned,
    would_undo,
)
from orchestrator.worker.recovery.execution_status import ExecutionStatus
from orchestrator.worker.recovery.limits import Sweeping
from orchestrator.workflow.system.recovery import Action

_log = logging.getLogger(__name__)

_FAILED = 'TemporalReportedProblems IN ("category=WorkflowTaskFailed")'
_HISTORY_PAGE = 100
"""Events, the newest first, among which the request to cancel is looked for. Failed attempts leave none."""


async def carry_out(sweeping: Sweeping, recorded: RecordedSaga, execution: ExecutionStatus) -> Action | None:
    """Carry out what is decided about a saga whose execution fails.

    Args:
        sweeping: the sweep.
        recorded: the saga.
        execution: the one that drives it, which runs.

    Returns:
        What was done; None if nothing is decided, and the execution waits for a fix.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    if recorded.orchestrator not in sweeping.catalog.orchestrators:
        return None
    if recorded.phase is Phase.UNDOING:
        reason = "it is to be undone"
    else:
        wanted = await _wanted(sweeping, recorded, execution)
        if wanted is None or await _decide(sweeping, recorded, wanted) is not UndoAnswer.UNDOING:
            return None
        reason = wanted.message
    async with sweeping.place() as has_place:
        if not has_place:
            return sweeping.postpone(execution.workflow_id, reason)
        await sweeping.begin_again(execution, cancelled=execution.is_cancel_requested)
    return sweeping.note(Action.UNDO, execution.workflow_id, f"{reason}; its workflow task fails, so it begins again")


async def failing_sagas(sweeping: Sweeping) -> Sequence[RecordedSaga]:
    """Unfinished sagas whose own execution the server reports as failing, and that this sweep has not looked at.

    One that sleeps is not silent, so nothing else finds it.
    """
    types = ", ".join(f'"{name}"' for name in sweeping.catalog.orchestrators)
    of_these = f'TaskQueue = "{sweeping.task_queue}" AND WorkflowType IN ({types})'
    query = f'ExecutionStatus = "Running" AND {of_these} AND {_FAILED}'
    ids: list[UUID] = []
    try:
        async for one in sweeping.client.list_workflows(query, limit=sweeping.limits.ceiling):
            event_id = one.id.removeprefix(own_workflow_id(one.workflow_type, ""))
            if event_id != one.id:
                ids.append(saga_id(one.workflow_type, event_id))
    except RPCError as fault:
        if fault.status not in (RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED):
            raise
        _log.debug("this server does not report workflow tasks that fail: %s", fault.message)
    found = await recorded_sagas(sweeping.databases.home, [key for key in ids if key not in sweeping.seen])
    return [one for one in found.values() if not one.phase.is_final]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An undoing that somebody or something has asked for."""

    ends_as: Phase
    error_code: str
    message: str


async def _decide(sweeping: Sweeping, recorded: RecordedSaga, wanted: _Wanted) -> UndoAnswer:
    if sweeping.dry_run:
        return await would_undo(sweeping.databases, recorded)
    return await undo_if_still_owned(
        sweeping.databases, recorded, wanted.message, ends_as=wanted.ends_as, error_code=wanted.error_code
    )


async def _wanted(sweeping: Sweeping, recorded: RecordedSaga, execution: ExecutionStatus) -> _Wanted | None:
    """How the saga is to end by a cancel that its execution did not hear, or by its deadline."""
    if execution.is_cancel_requested:
        said = await _why_cancelled(sweeping.client, execution)
        message = "cancelled while its workflow task failed" + (f": {said}" if said else "")
        return _Wanted(Phase.CANCELLED, CANCELLED, message)
    orchestrator = sweeping.catalog.orchestrators[recorded.orchestrator]
    age = await read_clock(sweeping.databases.home) - recorded.created_at
    if orchestrator.deadline is not None and age > orchestrator.deadline:
        return _Wanted(Phase.FAILED, DEADLINE_EXCEEDED, too_late(orchestrator))
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
