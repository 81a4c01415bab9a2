"""Finds out which task queues workers poll, and which executions run on a task queue other than the configured one.

An execution stays on the task queue on which it was started. After ORCHESTRATOR_TASK_QUEUE is renamed, running
executions stay behind, and partitions even get new events there, because starting a running partition only signals it.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from shlex import quote

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.client.in_flight import request_slot

_log = logging.getLogger(__name__)

POLL = timedelta(seconds=70)
"""A worker polls at least once a minute; one whose last poll is older than this is gone."""
_KINDS = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
"""Both kinds are read, because a worker whose step slots are all in use polls only for workflow tasks."""
_COUNTED = 1_000
"""How many executions on other task queues are counted at most; what matters is whether there are any."""
_TIMEOUT = 1.0
"""Seconds."""
_SHOWN = 5
"""How many task queues are named at most."""


@dataclass(frozen=True, slots=True)
class OtherQueue:
    """Another task queue on which executions of this application's orchestrators run."""

    task_queue: str
    executions: int
    is_counted: bool
    """Whether `executions` is the exact number; otherwise there may be more."""
    polled: datetime | None
    """The time of the last poll by a worker; None if there was none within the last minutes."""

    def __str__(self) -> str:
        number = "1 execution runs" if self.executions == 1 else f"{self.executions:,} executions run"
        least = "" if self.is_counted else "at least "
        ago = None if self.polled is None else datetime.now(UTC) - self.polled
        if ago is None or ago > POLL:
            state = "which no worker polls, so their sagas do not continue"
        else:
            state = f"which a worker last polled {max(ago.total_seconds(), 0):.0f} s ago"
        return (
            f"{least}{number} on the task queue {self.task_queue!r}, {state}. If ORCHESTRATOR_TASK_QUEUE was renamed, "
            f"stop the workers there and move them: orchestrator recover --from-task-queue {quote(self.task_queue)}"
        )


async def last_poll(client: Client, task_queue: str) -> datetime | None:
    """Return the time of the last poll by a worker, for any kind of task; None if there was none in the last minutes.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    polls: list[datetime] = []
    for kind in _KINDS:
        described = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
            )
        )
        polls += [poller.last_access_time.ToDatetime(tzinfo=UTC) for poller in described.pollers]
    return max(polls, default=None)


async def is_polled(client: Client, task_queue: str) -> bool:
    """Whether a worker polls a task queue.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    polled = await last_poll(client, task_queue)
    return polled is not None and datetime.now(UTC) - polled < POLL


async def other_queues(client: Client, orchestrators: Iterable[str], task_queue: str) -> list[OtherQueue]:
    """Return the other task queues on which executions of these orchestrators run, the most recent first.

    Polled task queues are included, because a worker that has just been stopped looks like one that waits for work. The
    result is only informative, so it is empty if the server does not answer.
    """
    types = ", ".join(json.dumps(name) for name in orchestrators)
    if not types:
        return []
    query = f'ExecutionStatus = "Running" AND TaskQueue != {json.dumps(task_queue)} AND WorkflowType IN ({types})'
    try:
        counts = Counter([run.task_queue async for run in client.list_workflows(query, limit=_COUNTED)])
        is_counted = counts.total() < _COUNTED
        return [
            OtherQueue(name, number, is_counted, await last_poll(client, name))
            for name, number in list(counts.items())[:_SHOWN]  # the server lists the newest first
        ]
    except RPCError as fault:
        _log.debug("The other task queues could not be listed: %s", fault.message)
        return []


async def unpolled_queue_of(client: Client, workflow_id: str) -> str | None:
    """Return the task queue of a running execution if no worker polls it, otherwise None.

    The result is only used in a message, so it is None if the server does not answer soon.
    """
    try:
        async with asyncio.timeout(_TIMEOUT), request_slot():
            described = await client.workflow_service.describe_workflow_execution(
                DescribeWorkflowExecutionRequest(
                    namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
                )
            )
            task_queue = described.execution_config.task_queue.name
            is_running = not described.workflow_execution_info.HasField("close_time")
            return task_queue if is_running and not await is_polled(client, task_queue) else None
    except (RPCError, TimeoutError):
        return None
