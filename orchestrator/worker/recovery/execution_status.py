"""What became of an execution, asked of the server that ran it: visibility lags behind, and is not asked.

An execution is a chain of runs: a continue-as-new or a reset goes on in the next one, which keeps the first run's id.
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
"""The server's own words where nobody gave a reason."""
_DELETES = ("history-service", "Delete workflow execution")
"""Identity and reason with which the server terminates a running execution that is to be deleted."""
MOVED = "moved to another task queue"
"""With which the reason begins when an execution was terminated only so that its saga goes on elsewhere."""
_FAILED_OFTEN = 2
"""Attempts at one workflow task. A worker that dies costs one, so a single one says nothing."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NOT_THERE = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED
_RUNS = (
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING,
    # The SDK's own enumeration does not have this one, and `describe` would raise.
    WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_PAUSED,
)


@dataclass(frozen=True, slots=True)
class ExecutionStatus:
    """How a run stands or ended; without a status it is not there (any more)."""

    workflow_id: str
    run_id: str = ""
    first_run_id: str = ""
    status: WorkflowExecutionStatus.ValueType = _NOT_THERE
    """`temporalio.api.enums.v1.WorkflowExecutionStatus`; 0 if there is none."""
    closed_at: datetime = _LONG_AGO
    reset_run_id: str = ""
    """The run that goes on instead of this one, if it was reset."""
    task_attempt: int = 0
    """Attempts at its present workflow task; 0 if it has none."""
    is_cancel_requested: bool = False
    """Whether somebody has asked for its cancel."""

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.status in _RUNS

    @property
    def keeps_failing(self) -> bool:
        """Whether its workflow task has failed several times, so that it may hear of nothing."""
        return self.runs and self.task_attempt > _FAILED_OFTEN

    @property
    def was_terminated(self) -> bool:
        """Whether it was terminated."""
        return self.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_TERMINATED

    @property
    def has_completed(self) -> bool:
        """Whether it ended well."""
        return self.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED

    @property
    def was_continued(self) -> bool:
        """Whether another run goes on where it ended."""
        return self.status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW

    def __str__(self) -> str:
        if self.status == _NOT_THERE:
            return f"{self.workflow_id} is not there"
        name = WorkflowExecutionStatus.Name(self.status).removeprefix("WORKFLOW_EXECUTION_STATUS_")
        return f"{self.workflow_id} is {name.lower().replace('_', ' ')}"


async def status_of_execution(client: Client, workflow_id: str, run_id: str | None = None) -> ExecutionStatus:
    """How a run stands; without its id, the latest of that workflow id.

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
    return _fate(described)


async def status_of_chain(
    client: Client, workflow_id: str, first_run_id: str, latest: ExecutionStatus
) -> ExecutionStatus:
    """How a chain of runs stands, given how the latest run of its workflow id does.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    if latest.status == _NOT_THERE or not first_run_id or latest.first_run_id == first_run_id:
        return latest
    # Another execution has taken the workflow id since: follow the chain from its beginning.
    fate = await status_of_execution(client, workflow_id, first_run_id)
    while following := await _run_after(client, fate):
        fate = await status_of_execution(client, workflow_id, following)
    return fate


async def why_terminated(client: Client, fate: ExecutionStatus) -> str | None:
    """What was given as the reason; empty if nothing was. None: nobody wanted its saga ended, because the server
    terminated it to delete it, or it was moved to another task queue.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    event = await _close_event(client, fate)
    if event is None:
        return None
    told = event.workflow_execution_terminated_event_attributes
    if (told.identity, told.reason) == _DELETES or told.reason.startswith(MOVED):
        return None
    said = [] if told.reason == _NO_REASON else [told.reason]
    said += [_text(one.data) for one in told.details.payloads]
    return "; ".join(one for one in said if one)


async def _run_after(client: Client, fate: ExecutionStatus) -> str:
    """The run that goes on where this one ended, if there is one."""
    if fate.reset_run_id or not fate.was_continued:
        return fate.reset_run_id
    event = await _close_event(client, fate)
    return event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id if event else ""


async def _close_event(client: Client, fate: ExecutionStatus) -> HistoryEvent | None:
    handle = client.get_workflow_handle(fate.workflow_id, run_id=fate.run_id)
    try:
        async for event in handle.fetch_history_events(event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT):
            return event
    except RPCError as fault:
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise
    return None


def _fate(described: DescribeWorkflowExecutionResponse) -> ExecutionStatus:
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


def _text(data: bytes) -> str:
    """A detail as a person gave it, if it is a text."""
    try:
        said: object = json.loads(data)
    except ValueError:
        return ""
    return said if isinstance(said, str) else ""
