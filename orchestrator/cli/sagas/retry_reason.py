"""Why a saga is not done, in one sentence: read from its execution, as the database does not know who drives."""

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
from orchestrator.cli.terminal.output import ago, lasting
from orchestrator.client.task_queues import POLL, last_poll
from orchestrator.protocol import names
from orchestrator.protocol.commands import Blocker
from orchestrator.workflow.failures import failure_text

_PATIENCE = timedelta(seconds=5)
"""Seconds that work may lie although a worker polls, before that is worth a sentence."""
_LOCKS_TOLD = 3
LAST_FAILURE = "; the last failure: "
_ENGINE_ACTIVITIES = {
    names.BEGIN_UNDO: "turning to undoing",
    names.FINISH: "writing the outcome",
    names.MARK_STUCK: "noting that it is stuck",
    names.DEAD_LETTER: "keeping a message that was no event",
}


class BlockedReason(StrEnum):
    """What holds a saga up."""

    WORKING = "working"
    """Nothing does."""
    NO_WORKER = "no_worker"
    """No worker asks for work on its task queue."""
    BACKLOG = "backlog"
    """A worker asks for work, and has not taken this yet."""
    RETRYING = "retrying"
    """A step or an undoing fails, and is tried again."""
    BUG = "bug"
    """`handle` raises; nothing is undone, and a fixed version goes on."""
    PARKED = "parked"
    """Its event is of a newer version than the workers know that have tried."""
    WAITING = "waiting"
    """For a person, or a message."""
    STUCK = "stuck"
    LOCKED = "locked"
    """Another saga holds a lock that it takes."""
    CLOSED = "closed"
    """Its execution has ended, and the saga may not have."""
    GONE = "gone"
    """There is no execution."""

    @property
    def is_untaken(self) -> bool:
        """Whether work lies in a task queue."""
        return self in (BlockedReason.NO_WORKER, BlockedReason.BACKLOG)


@dataclass(frozen=True, slots=True)
class Reason:
    """What holds a saga up, and the sentence that says so."""

    kind: BlockedReason
    sentence: str
    attempt: int | None = None
    status: WorkflowExecutionStatus | None = None
    """The execution's."""
    run_id: str = ""
    """Of the execution's present run."""
    is_cancel_requested: bool = False
    """Whether its cancel was asked for; an execution that has undone its saga ends."""


def told_of_locks(by: Sequence[Blocker]) -> str:
    """For which locks a saga waits, and who holds them."""
    told = [
        f"the lock {one.key}, held by {one.holder.orchestrator} {one.holder.event_id}, {one.before} before it"
        for one in by[:_LOCKS_TOLD]
    ]
    more = f", and for {len(by) - _LOCKS_TOLD} locks more" if len(by) > _LOCKS_TOLD else ""
    return f"waits for {', and for '.join(told)}{more}"


async def reason_of(client: Client, workflow_id: str) -> Reason | None:
    """Why an execution has not ended; None if there is none of that id.

    Raises:
        temporalio.service.RPCError: Temporal does not answer.
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
    reason = await _of_workflow_task(client, description, raw) or await reason_of_activities(client, raw)
    if reason is None:
        reason = Reason(BlockedReason.WAITING, "it waits for a message: nothing is to be done just now", status=status)
    return replace(
        reason,
        run_id=description.run_id,
        is_cancel_requested=raw.workflow_extended_info.cancel_requested,
    )


async def _of_workflow_task(
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
                f"the worker that takes its work does not know {raw.workflow_execution_info.type.name} "
                f"(attempt {task.attempt}): workers find new files when they start, so start it again",
                attempt=task.attempt,
            )
        if failure is not None and failure.application_failure_info.type == "EventParked":
            said = (failure.message.splitlines() or [""])[0].removeprefix("EventParked: ")
            return Reason(
                BlockedReason.PARKED,
                f"its event is parked (attempt {task.attempt}): {said}. Start a worker of the newer code",
                attempt=task.attempt,
            )
        if failure is not None:
            return Reason(
                BlockedReason.BUG,
                f"its workflow task fails, which is a bug in `handle` or an incompatible change of it "
                f"(attempt {task.attempt}): {failure_text(failure)}",
                attempt=task.attempt,
            )
    waiting = task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
    since = _moment(task.original_scheduled_time if _is_set(task) else task.scheduled_time)
    if waiting and (reason := await _not_taken(client, raw.execution_config.task_queue.name, since)):
        return reason
    return Reason(BlockedReason.WORKING, "it is being worked on", attempt=task.attempt)


async def reason_of_activities(client: Client, raw: DescribeWorkflowExecutionResponse) -> Reason | None:
    """Why the activities of an execution are not done; None if none is pending."""
    pending = sorted(raw.pending_activities, key=lambda one: one.attempt, reverse=True)
    if not pending:
        return None
    activity = pending[0]
    what = _ENGINE_ACTIVITIES.get(activity.activity_type.name, activity.activity_type.name)
    if activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED:
        return Reason(BlockedReason.WAITING, f"{what} is paused: unpause it in the Web UI", attempt=activity.attempt)
    is_waiting = activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    not_taken: Reason | None = None
    if is_waiting and not _is_backing_off(activity):
        # Of a retry, `scheduled_time` is still the first attempt's.
        since = max(_moment(activity.scheduled_time), _moment(activity.next_attempt_schedule_time))
        not_taken = await _not_taken(client, raw.execution_config.task_queue.name, since)
    last = f"{LAST_FAILURE}{failure_text(activity.last_failure)}" if activity.HasField("last_failure") else ""
    if not_taken is not None and (activity.attempt == 1 or not_taken.kind is BlockedReason.NO_WORKER):
        return replace(not_taken, sentence=f"{not_taken.sentence}{last}", attempt=activity.attempt)
    if activity.attempt > 1:
        soon = ""
        if _is_backing_off(activity):
            left = _moment(activity.next_attempt_schedule_time) - datetime.now(UTC)
            soon = f", next in {lasting(left)}"
        return Reason(
            BlockedReason.RETRYING, f"{what} fails, attempt {activity.attempt}{soon}{last}", attempt=activity.attempt
        )
    return Reason(BlockedReason.WORKING, f"{what} is running", attempt=activity.attempt)


async def _not_taken(client: Client, task_queue: str, since: datetime) -> Reason | None:
    """Why work lies on a task queue since then: no worker asks for it, or the workers that do have not taken it yet."""
    return reason_for_backlog(task_queue, since, await last_poll(client, task_queue))


def reason_for_backlog(task_queue: str, since: datetime, seen: datetime | None) -> Reason | None:
    """What to say of work that nobody has taken from a task queue; None if that is not worth a sentence yet.

    Args:
        task_queue: its name.
        since: since when the work lies there.
        seen: when a worker last asked for work of any kind; None if none did of late.
    """
    now = datetime.now(UTC)
    start = f"Start one: {worker_command()}"
    if seen is None or now - seen > POLL:
        return Reason(
            BlockedReason.NO_WORKER, f"no worker polls the task queue {task_queue!r}, so nobody takes the work. {start}"
        )
    if now - since > _PATIENCE:
        return Reason(
            BlockedReason.BACKLOG,
            f"its work has waited in the task queue {task_queue!r} for {ago(since, now)}. A worker polls that queue, "
            f"last {ago(seen, now)} ago: it is busy, or was stopped since. Look whether it still runs, and at its log",
        )
    return None


async def _last_task_failure(client: Client, description: WorkflowExecutionDescription) -> Failure | None:
    """What the last workflow task failed with; None if it did not fail but its worker went away."""
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
