"""Restarts an execution with an empty history if it cannot replay the one that it has.

An execution replays its history before it handles new messages. If the author's code raises or takes different steps
during that replay, no cancellation and no retry ever reaches it. A reset to the first workflow task ends the run and
starts a new one with the same messages but without the steps; the database then answers those steps from its records.
"""

from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.protocol.names import UNDO_SIGNAL

_SEARCHED_EVENTS = 1_000
"""How many events are searched for the first completed workflow task; only messages can come before it."""


async def begin_again(client: Client, workflow_id: str, run_id: str, *, reason: str, undoes: bool) -> bool:
    """Reset a run to its first workflow task.

    Args:
        client: a connection to Temporal.
        workflow_id: the id of the execution.
        run_id: the id of the run to reset.
        reason: the reason that the Web UI shows.
        undoes: whether the database has decided to undo the saga. If so, a signal is sent before the reset. The next
            run gets it before it does anything, because a reset keeps signals, although not cancel requests.

    Returns:
        Whether the run was reset; False if it has no history to replay or has ended meanwhile.

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
    """Cancel an execution unless it has ended, so that the Web UI shows it as cancelled.

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
    """Return the id of the event that completed the first workflow task; None if none was completed."""
    searched = 0
    async for event in client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history_events():
        searched += 1
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            return event.event_id
        if searched == _SEARCHED_EVENTS:
            break
    return None
