"""Finds out from Temporal why a saga is not done, because the database does not contain what drives a saga."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, PendingActivityState, PendingWorkflowTaskState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo, PendingWorkflowTaskInfo
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryReverseRequest,
)
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.cli.terminal.invocation import worker_command
from orchestrator.cli.terminal.output import age_text, duration_text
from orchestrator.client.executions.task_queues import POLL, last_poll
from orchestrator.protocol import names
from orchestrator.protocol.commands import Blocker
from orchestrator.workflow.failures import failure_text

_BACKLOG_AFTER = timedelta(seconds=5)
"""How long a task may wait in a queue that a worker polls before the wait is reported."""
_LOCKS_SHOWN = 3
"""The maximum number of locks in a sentence."""
LAST_FAILURE = "; the last failure: "
"""The text before the last failure in a reason's sentence."""
_ENGINE_ACTIVITIES = {
    names.BEGIN_UNDO: "beginning the undo",
    names.FINISH: "writing the outcome",
    names.MARK_STUCK: "marking the saga as stuck",
    names.DEAD_LETTER: "storing a dead letter",
}


class BlockedReason(StrEnum):
    """Why a saga is not done."""

    WORKING = "working"
    """A worker is working on it, and nothing blocks it."""
    NO_WORKER = "no_worker"
    """No worker polls its task queue."""
    BACKLOG = "backlog"
    """A worker polls its task queue, but has not picked up its task yet."""
    RETRYING = "retrying"
    """A step or a compensation fails and is retried."""
    BUG = "bug"
    """`handle` raises an error. Nothing is undone; the saga continues when a fixed version is deployed."""
    PARKED = "parked"
    """None of the workers that tried to read its event knows the event's version."""
    WAITING = "waiting"
    """It waits for an operator or for a message."""
    STUCK = "stuck"
    LOCKED = "locked"
    """Another saga holds a lock that it needs."""
    CLOSED = "closed"
    """Its execution has ended, but the saga may not have."""
    GONE = "gone"
    """There is no execution for it."""

    @property
    def is_untaken(self) -> bool:
        """Whether a task waits in its task queue because no worker has picked it up."""
        return self in (BlockedReason.NO_WORKER, BlockedReason.BACKLOG)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a saga is not done, as a constant for programs and as a sentence for people."""

    kind: BlockedReason
    sentence: str
    attempt: int | None = None
    status: WorkflowExecutionStatus | None = None
    """The status of the saga's execution."""
    run_id: str = ""
    """The id of the execution's current run."""
    is_cancel_requested: bool = False
    """Whether the execution's cancellation was requested."""


def describe_lock_wait(blockers: Sequence[Blocker]) -> str:
    """Describe which locks a saga waits for, and which saga holds each."""
    locks = [
        f"the lock {blocker.key}, held by {blocker.holder.orchestrator} {blocker.holder.event_id}, "
        f"{blocker.before} ahead of it"
        for blocker in blockers[:_LOCKS_SHOWN]
    ]
    more = f", and for {len(blockers) - _LOCKS_SHOWN} more locks" if len(blockers) > _LOCKS_SHOWN else ""
    return f"waits for {', and for '.join(locks)}{more}"


async def reason_of(client: Client, workflow_id: str) -> Reason | None:
    """Return why an execution has not ended, or None if there is no execution with that id.

    Raises:
        temporalio.service.RPCError: Temporal does not answer, or refuses the request.
    """
    try:
        description = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as fault:
        if fault.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    status = description.status
    if status is not WorkflowExecutionStatus.RUNNING:
        name = "unknown" if status is None else status.name.lower().replace("_", " ")
        return Reason(BlockedReason.CLOSED, f"its execution has ended as {name}", status=status)
    raw = description.raw_description
    reason = await _reason_of_workflow_task(client, description, raw) or await reason_of_activities(client, raw)
    if reason is None:
        reason = Reason(
            BlockedReason.WAITING,
            "it waits for a message, and has nothing else to do until that arrives",
            status=status,
        )
    return replace(
        reason,
        run_id=description.run_id,
        is_cancel_requested=raw.workflow_extended_info.cancel_requested,
    )


async def _reason_of_workflow_task(
    client: Client, description: WorkflowExecutionDescription, raw: DescribeWorkflowExecutionResponse
) -> Reason | None:
    if not raw.HasField("pending_workflow_task"):
        return None
    task = raw.pending_workflow_task
    if task.attempt > 1:
        failure = await _last_task_failure(client, description)
        if failure is not None and "is not registered on this worker" in failure.message:
            return Reason(
                BlockedReason.BUG,
                f"the worker that picked up its task does not know {raw.workflow_execution_info.type.name} "
                f"(attempt {task.attempt}). A worker finds new files only when it starts, so restart it",
                attempt=task.attempt,
            )
        if failure is not None and failure.application_failure_info.type == "EventParked":
            message = (failure.message.splitlines() or [""])[0].removeprefix("EventParked: ")
            return Reason(
                BlockedReason.PARKED,
                f"its event is parked (attempt {task.attempt}): {message}. Start a worker that runs the newer code",
                attempt=task.attempt,
            )
        if failure is not None:
            return Reason(
                BlockedReason.BUG,
                f"its workflow task fails because of a bug in `handle` or an incompatible change to it "
                f"(attempt {task.attempt}): {failure_text(failure)}",
                attempt=task.attempt,
            )
    is_scheduled = task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    since = _moment(task.original_scheduled_time if _is_set(task) else task.scheduled_time)
    if is_scheduled and (reason := await _backlog_reason(client, raw.execution_config.task_queue.name, since)):
        return reason
    return Reason(BlockedReason.WORKING, "a worker is working on it", attempt=task.attempt)


async def reason_of_activities(client: Client, raw: DescribeWorkflowExecutionResponse) -> Reason | None:
    """Return why the pending activities of an execution are not done, or None if it has none."""
    pending = sorted(raw.pending_activities, key=lambda activity: activity.attempt, reverse=True)
    if not pending:
        return None
    activity = pending[0]
    name = _ENGINE_ACTIVITIES.get(activity.activity_type.name, activity.activity_type.name)
    if activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED:
        return Reason(BlockedReason.WAITING, f"{name} is paused. Unpause it in the Web UI", attempt=activity.attempt)
    is_scheduled = activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    backlog: Reason | None = None
    if is_scheduled and not _is_backing_off(activity):
        # A retry keeps the `scheduled_time` of the first attempt.
        since = max(_moment(activity.scheduled_time), _moment(activity.next_attempt_schedule_time))
        backlog = await _backlog_reason(client, raw.execution_config.task_queue.name, since)
    last_failure = f"{LAST_FAILURE}{failure_text(activity.last_failure)}" if activity.HasField("last_failure") else ""
    if backlog is not None and (activity.attempt == 1 or backlog.kind is BlockedReason.NO_WORKER):
        return replace(backlog, sentence=f"{backlog.sentence}{last_failure}", attempt=activity.attempt)
    if activity.attempt > 1:
        next_attempt = ""
        if _is_backing_off(activity):
            delay = _moment(activity.next_attempt_schedule_time) - datetime.now(UTC)
            next_attempt = f", next in {duration_text(delay)}"
        sentence = f"{name} fails, attempt {activity.attempt}{next_attempt}{last_failure}"
        return Reason(BlockedReason.RETRYING, sentence, attempt=activity.attempt)
    return Reason(BlockedReason.WORKING, f"{name} is running", attempt=activity.attempt)


async def _backlog_reason(client: Client, task_queue: str, since: datetime) -> Reason | None:
    """Return why a task has waited in a task queue: no worker polls it, or it has a backlog. None if neither."""
    return reason_for_backlog(task_queue, since, await last_poll(client, task_queue))


def reason_for_backlog(task_queue: str, since: datetime, polled: datetime | None) -> Reason | None:
    """Return why no worker has picked up a task, or None if it has not waited long enough to be reported.

    Args:
        task_queue: the task queue's name.
        since: when the task was put into the queue.
        polled: when a worker last polled for tasks of any kind, or None if none has polled lately.
    """
    now = datetime.now(UTC)
    if polled is None or now - polled > POLL:
        return Reason(
            BlockedReason.NO_WORKER,
            f"no worker polls the task queue {task_queue!r}, so its task is not picked up. Start one: "
            f"{worker_command()}",
        )
    if now - since > _BACKLOG_AFTER:
        return Reason(
            BlockedReason.BACKLOG,
            f"its task has waited in the task queue {task_queue!r} for {age_text(since, now)}. A worker polls that "
            f"queue, last {age_text(polled, now)} ago, so it is busy or has just been stopped. Check that it still "
            "runs, and read its log",
        )
    return None


async def _last_task_failure(client: Client, description: WorkflowExecutionDescription) -> Failure | None:
    """Return the last workflow task's failure, or None if the task timed out instead of failing."""
    history = await client.workflow_service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=client.namespace,
            execution=WorkflowExecution(workflow_id=description.id, run_id=description.run_id),
            maximum_page_size=20,
        )
    )
    for event in history.history.events:
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
                return event.workflow_task_failed_event_attributes.failure
            case EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT | EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                return None
            case _:
                pass
    return None


def _is_backing_off(activity: PendingActivityInfo) -> bool:
    if not activity.HasField("next_attempt_schedule_time"):
        return False
    return _moment(activity.next_attempt_schedule_time) > datetime.now(UTC)


def _is_set(task: PendingWorkflowTaskInfo) -> bool:
    return task.HasField("original_scheduled_time") and task.original_scheduled_time.seconds > 0


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
