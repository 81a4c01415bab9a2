"""The status of an execution according to the server that ran it; the visibility store lags behind and is not used.

An execution is a chain of runs. A continue-as-new or a reset continues it in a new run with the same first run id.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse
from temporalio.client import Client, WorkflowHistoryEventFilterType
from temporalio.service import RPCError, RPCStatusCode

_NO_REASON = "terminated by user via frontend"
"""The server's default reason for a termination without one."""
_DELETES = ("history-service", "Delete workflow execution")
"""The identity and the reason with which the server terminates a running execution before deleting it."""
MOVED = "moved to another task queue"
"""The reason for terminating an execution only because its saga moves to another task queue begins with this text."""
_FAILED_OFTEN = 2
"""A workflow task with more attempts than this counts as failing. A worker that dies costs one attempt as well."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NOT_THERE = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED
_RUNS = (
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
    # The SDK's own enumeration lacks this status, so its `describe` would raise.
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
)


@dataclass(frozen=True, slots=True)
class ExecutionStatus:
    """The status of a run. Without a `status`, the server has no such run."""

    workflow_id: str
    run_id: str = ""
    first_run_id: str = ""
    status: WorkflowExecutionStatus.ValueType = _NOT_THERE
    """The `temporalio.api.enums.v1.WorkflowExecutionStatus`, or 0 if there is no such run."""
    closed_at: datetime = _LONG_AGO
    reset_run_id: str = ""
    """The id of the run that continues this one after a reset, or an empty string."""
    task_attempt: int = 0
    """The number of attempts at the current workflow task, or 0 if there is none."""
    is_cancel_requested: bool = False
    """Whether the run's cancellation was requested."""

    @property
    def runs(self) -> bool:
        """Whether the run has not ended."""
        return self.status in _RUNS

    @property
    def keeps_failing(self) -> bool:
        """Whether the current workflow task has failed several times, so that the run may not process signals."""
        return self.runs and self.task_attempt > _FAILED_OFTEN

    @property
    def was_terminated(self) -> bool:
        """Whether the run was terminated."""
        return self.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED

    @property
    def has_completed(self) -> bool:
        """Whether the run completed successfully."""
        return self.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED

    @property
    def was_continued(self) -> bool:
        """Whether the run continued as new."""
        return self.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW

    def __str__(self) -> str:
        if self.status == _NOT_THERE:
            return f"{self.workflow_id} does not exist"
        name = WorkflowExecutionStatus.Name(self.status).removeprefix("WORKFLOW_EXECUTION_STATUS_")
        return f"{self.workflow_id} is {name.lower().replace('_', ' ')}"


async def status_of_execution(client: Client, workflow_id: str, run_id: str | None = None) -> ExecutionStatus:
    """Return the status of a run, by default of the latest run of the workflow id.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    try:
        described = await client.workflow_service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id or ""),
            ),
            retry=True,
        )
    except RPCError as fault:
        if fault.status is RPCStatusCode.NOT_FOUND:
            return ExecutionStatus(workflow_id)
        raise
    return _status_from(described)


async def status_of_chain(
    client: Client, workflow_id: str, first_run_id: str, latest: ExecutionStatus
) -> ExecutionStatus:
    """Return the status of the last run of a chain.

    Args:
        client: a connection to Temporal.
        workflow_id: the chain's workflow id.
        first_run_id: the id of the chain's first run.
        latest: the status of the latest run of that workflow id.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    if latest.status == _NOT_THERE or not first_run_id or latest.first_run_id == first_run_id:
        return latest
    # Another execution has used the workflow id in the meantime, so the chain is followed from its first run.
    run = await status_of_execution(client, workflow_id, first_run_id)
    while next_run_id := await _next_run_id(client, run):
        run = await status_of_execution(client, workflow_id, next_run_id)
    return run


async def why_terminated(client: Client, run: ExecutionStatus) -> str | None:
    """Return the reason for a termination.

    Returns:
        The reason, or an empty string if none was given. None if the saga should not end, because the run was
        terminated by the server to delete it, or by a move to another task queue.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    event = await _close_event(client, run)
    if event is None:
        return None
    termination = event.workflow_execution_terminated_event_attributes
    if (termination.identity, termination.reason) == _DELETES or termination.reason.startswith(MOVED):
        return None
    reasons = [] if termination.reason == _NO_REASON else [termination.reason]
    reasons += [_decode_text(payload.data) for payload in termination.details.payloads]
    return "; ".join(reason for reason in reasons if reason)


async def _next_run_id(client: Client, run: ExecutionStatus) -> str:
    """Return the id of the run that continues a run, or an empty string."""
    if run.reset_run_id or not run.was_continued:
        return run.reset_run_id
    event = await _close_event(client, run)
    return event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id if event else ""


async def _close_event(client: Client, run: ExecutionStatus) -> HistoryEvent | None:
    handle = client.get_workflow_handle(run.workflow_id, run_id=run.run_id)
    try:
        async for event in handle.fetch_history_events(event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT):
            return event
    except RPCError as fault:
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise
    return None


def _status_from(described: DescribeWorkflowExecutionResponse) -> ExecutionStatus:
    info = described.workflow_execution_info
    closed = info.close_time.ToDatetime(tzinfo=UTC) if info.HasField("close_time") else _LONG_AGO
    return ExecutionStatus(
        workflow_id=info.execution.workflow_id,
        run_id=info.execution.run_id,
        first_run_id=info.first_run_id,
        status=info.status,
        closed_at=closed,
        reset_run_id=described.workflow_extended_info.reset_run_id,
        task_attempt=described.pending_workflow_task.attempt,
        is_cancel_requested=described.workflow_extended_info.cancel_requested,
    )


def _decode_text(data: bytes) -> str:
    """Return the text that a payload holds as JSON, or an empty string if it is not a text."""
    try:
        value: object = json.loads(data)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""
