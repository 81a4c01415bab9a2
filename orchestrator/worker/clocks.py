"""Compares this worker's clock with those of the databases and of Temporal, and warns when it is wrong.

No saga depends on a worker's clock. But the timestamps of events and logs do, and so does any time that the
application's code reads; and a wrong clock is easy to miss.
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
"""The largest difference for which no warning is logged."""
_FIRST = 2.0
"""Seconds from the worker's start to the first comparison. By then the worker has begun to poll Temporal."""
_EVERY = 600.0
"""Seconds between two comparisons."""
_LONGEST_POLL = 70.0
"""The longest time between two polls of a worker, in seconds."""


async def ahead_of_database(database: Database) -> timedelta:
    """Return how far this worker's clock is ahead of a database's; negative if it is behind."""
    before = _worker_time()
    database_time = await read_clock(database)
    after = _worker_time()
    return before + (after - before) / 2 - database_time


async def ahead_of_temporal(client: Client, task_queue: str, *, polling_for: float) -> timedelta:
    """Return the least by which this worker's clock must be ahead of Temporal's; negative if it is behind.

    The server has no API for its time. It reports when each worker last polled, which gives two bounds: the server's
    clock has reached the newest of these times, and it is past this worker's last poll by no more than a poll can take.

    Args:
        client: a connection with this worker's identity.
        task_queue: the task queue that this worker polls.
        polling_for: the number of seconds for which this worker has polled.
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
    """Log a warning if this worker's clock differs by more than the tolerance.

    Args:
        ahead: how far this worker's clock is ahead.
        whose: the owner of the other clock, for example "Temporal's".
    """
    if abs(ahead) <= TOLERANCE:
        return
    _log.warning(
        "this worker's clock is %d s %s %s. No saga depends on it, but the times of its events and of its logs, and "
        "the times that operations read, are wrong. Synchronize the machine's clock by NTP",
        *(abs(ahead.total_seconds()), "ahead of" if ahead > timedelta(0) else "behind", whose),
    )


@asynccontextmanager
async def comparing_clocks(databases: Databases, client: Client, task_queue: str) -> AsyncGenerator[None]:
    """Compare the worker's clock while the context is open: soon after it opens, then every ten minutes."""
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
        except Exception as fault:  # at worst a warning is missing, so the worker continues
            _log.info("the worker's clock could not be compared: %s", fault)


def _worker_time() -> datetime:
    return datetime.now(UTC)
