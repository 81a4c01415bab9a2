"""Has an execution begin again with an empty history, for one that its history keeps from going on.

An execution replays its history before it hears anything new. When the author's code raises or takes other steps in
that replay, no cancel and no retry is ever heard. A reset to the first workflow task ends the run and starts the next
one, which has the same messages and none of the steps: those are in the database, and answer there.
"""

from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.protocol.names import UNDO_SIGNAL

_LOOKED_AT = 1_000
"""Events among which the first completed workflow task is looked for; messages alone can come before it."""


async def begin_again(client: Client, workflow_id: str, run_id: str, *, reason: str, undoes: bool) -> bool:
    """Reset a run to its first workflow task.

    Args:
        client: a connection.
        workflow_id: the execution's.
        run_id: of the run that is reset.
        reason: why, for the Web UI.
        undoes: the database has decided that its saga is undone. A signal says so; the next run has it before it does
            anything, since a reset brings signals along, but no request to cancel.

    Returns:
        Whether it was reset. False: it has no history to replay, or has ended meanwhile.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    if undoes:
        await _signal_undo(client, workflow_id, run_id)
    first_task = await _first_task(client, workflow_id, run_id)
    if first_task is None:
        return False
    try:
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                reason=reason,
                workflow_task_finish_event_id=first_task,
                request_id=str(uuid4()),
            )
        )
    except RPCError as fault:
        if fault.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
            return False
        raise
    return True


async def cancel_if_running(client: Client, workflow_id: str, *, reason: str) -> None:
    """Cancel an execution, unless it has ended, so that it shows as cancelled.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    try:
        await client.get_workflow_handle(workflow_id).cancel(reason=reason)
    except RPCError as fault:
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise


async def _signal_undo(client: Client, workflow_id: str, run_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id, run_id=run_id).signal(UNDO_SIGNAL)
    except RPCError as fault:
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise


async def _first_task(client: Client, workflow_id: str, run_id: str) -> int | None:
    """Id of the event with which the first workflow task was completed; None if none was."""
    looked_at = 0
    async for event in client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history_events():
        looked_at += 1
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            return event.event_id
        if looked_at == _LOOKED_AT:
            break
    return None
