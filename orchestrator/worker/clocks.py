"""Compares this worker's clock with the database's and with Temporal's, and warns when it is wrong.

No saga depends on a worker's clock. What the application's code reads from it, the times of its events and its logs do,
and a wrong clock is easy to miss.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from orchestrator.store.core.clock import read_clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases

_log = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=5)
"""Differences up to this are not worth a warning."""
_FIRST = 2.0
"""Seconds after the start of the worker, when it has begun to poll Temporal."""
_EVERY = 600.0
_LONGEST_POLL = 70.0
"""Seconds after which a worker polls again at the latest."""


async def ahead_of_database(database: Database) -> timedelta:
    """By how much this worker's clock is ahead of a database's; negative if it is behind."""
    before = _worker_time()
    database_time = await read_clock(database)
    after = _worker_time()
    return before + (after - before) / 2 - database_time


async def ahead_of_temporal(client: Client, task_queue: str, *, polling_for: float) -> timedelta:
    """By how much this worker's clock is ahead of Temporal's at least; negative if it is behind.

    The server tells no time by itself. It says when each worker polled last: its clock has reached the newest of these
    times, and it has not gone further past this worker's own poll than the poll can have lasted.

    Args:
        client: with the identity of this worker.
        task_queue: the one that this worker polls.
        polling_for: for how many seconds it has polled.
    """
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
    )
    now = _worker_time()
    polls = {poller.identity: poller.last_access_time.ToDatetime(tzinfo=UTC) for poller in described.pollers}
    if polls and (behind := now - max(polls.values())) < timedelta(0):
        return behind
    if client.identity not in polls:
        return timedelta(0)
    latest = polls[client.identity] + timedelta(seconds=min(polling_for, _LONGEST_POLL))
    return max(now - latest, timedelta(0))


def warn_of(ahead: timedelta, whose: str) -> None:
    """Say that this worker's clock differs, if it does by more than the tolerance."""
    if abs(ahead) <= TOLERANCE:
        return
    _log.warning(
        "this worker's clock is %d s %s %s. No saga depends on it, but the times of its events and of its logs, and "
        "what operations read from it, are wrong. Have the machine's clock set by NTP",
        *(abs(ahead.total_seconds()), "ahead of" if ahead > timedelta(0) else "behind", whose),
    )


@asynccontextmanager
async def comparing_clocks(databases: Databases, client: Client, task_queue: str) -> AsyncGenerator[None]:
    """While it lasts, the worker's clock is compared: soon, and then every ten minutes."""
    comparing = asyncio.create_task(_compare(databases, client, task_queue))
    try:
        yield
    finally:
        comparing.cancel()
        await asyncio.gather(comparing, return_exceptions=True)


async def _compare(databases: Databases, client: Client, task_queue: str) -> None:
    began = monotonic()
    wait = _FIRST
    while True:
        await asyncio.sleep(wait)
        wait = _EVERY
        try:
            for name, database in databases:
                warn_of(await ahead_of_database(database), f"that of the database {name!r}")
            polling_for = monotonic() - began
            warn_of(await ahead_of_temporal(client, task_queue, polling_for=polling_for), "Temporal's")
        except Exception as fault:  # it is only a warning that is missing
            _log.info("the worker's clock could not be compared: %s", fault)


def _worker_time() -> datetime:
    return datetime.now(UTC)
