"""How `status` explains work that has not started: it first checks whether workers poll the task queue."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import ActivityType
from temporalio.api.enums.v1 import PendingActivityState, TaskQueueType
from temporalio.api.failure.v1 import ApplicationFailureInfo, Failure
from temporalio.api.taskqueue.v1 import PollerInfo
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    DescribeWorkflowExecutionResponse,
)
from temporalio.client import Client

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, reason_for_backlog, reason_of_activities

WORKFLOWS, ACTIVITIES = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY


def stamp(seconds_ago: float) -> Timestamp:
    """The timestamp of some seconds ago."""
    timestamp = Timestamp()
    timestamp.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds_ago))
    return timestamp


def server(**polled_ago: float) -> Client:
    """A server whose task queues were polled by a worker some seconds ago."""

    async def describe(request: DescribeTaskQueueRequest) -> DescribeTaskQueueResponse:
        name = "workflows" if request.task_queue_type == WORKFLOWS else "activities"
        pollers = [PollerInfo(last_access_time=stamp(polled_ago[name]))] if name in polled_ago else []
        return DescribeTaskQueueResponse(pollers=pollers)

    return cast(Client, SimpleNamespace(namespace="n", workflow_service=SimpleNamespace(describe_task_queue=describe)))


def execution(**fields: Any) -> DescribeWorkflowExecutionResponse:
    """An execution with a pending activity that waits in its task queue."""
    pending = PendingActivityInfo(
        activity_type=ActivityType(name="cast.take"),
        state=PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED,
        scheduled_time=stamp(60),
        **fields,
    )
    return DescribeWorkflowExecutionResponse(pending_activities=[pending])


DISK_FULL = Failure(
    message="database or disk is full", application_failure_info=ApplicationFailureInfo(type="OperationalError")
)


@pytest.mark.parametrize("client", [server(workflows=20), server(activities=20), server(workflows=300, activities=20)])
async def test_a_repeatedly_failing_step_is_reported_as_retrying_while_a_worker_polls(client: Client) -> None:
    reason = await reason_of_activities(client, execution(attempt=7, last_failure=DISK_FULL))

    assert reason is not None
    assert reason.kind is BlockedReason.RETRYING
    assert "cast.take fails, attempt 7; the last failure: OperationalError: database or disk is full" in reason.sentence
    assert "Start one" not in reason.sentence


@pytest.mark.parametrize("client", [server(), server(workflows=300, activities=300)])
async def test_a_missing_worker_is_reported_with_the_last_failure(client: Client) -> None:
    reason = await reason_of_activities(client, execution(attempt=7, last_failure=DISK_FULL))

    assert reason is not None
    assert reason.kind is BlockedReason.NO_WORKER
    assert "no worker polls" in reason.sentence
    assert "database or disk is full" in reason.sentence


async def test_a_waiting_first_attempt_is_a_backlog_while_a_worker_polls() -> None:
    reason = await reason_of_activities(server(workflows=20), execution(attempt=1))

    assert reason is not None
    assert reason.kind is BlockedReason.BACKLOG
    assert "A worker polls that queue, last 20 s ago" in reason.sentence
    assert "Start one" not in reason.sentence


async def test_a_retry_that_has_just_become_due_is_not_a_backlog() -> None:
    reason = await reason_of_activities(
        server(workflows=20), execution(attempt=2, next_attempt_schedule_time=stamp(1), last_failure=DISK_FULL)
    )

    assert reason is not None
    assert reason.kind is BlockedReason.RETRYING


def test_work_that_was_scheduled_just_now_is_not_a_backlog() -> None:
    now = datetime.now(UTC)

    assert reason_for_backlog("q", now, now) is None
