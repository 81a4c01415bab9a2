"""Automatic purging: while a worker runs, it deletes data that is older than the retention, in small batches.

Any number of workers may purge at the same time. A failure is logged and retried later, and no saga waits for it.
"""

import asyncio
import logging
from datetime import timedelta
from random import uniform

from orchestrator.store.core.databases import Databases
from orchestrator.store.retention import Purge, database_time, purge_some
from orchestrator.worker.fault_log import fault_log_of

_log = logging.getLogger(__name__)

EVERY = 900.0
"""Seconds from one sweep to the next."""
_SOON = 10.0
"""Seconds to the next sweep if the last one did not delete everything."""
FIRST = (5.0, 60.0)
"""The shortest and the longest wait before the first sweep, in seconds. The wait is random, so that workers that start
together do not purge together."""
_BATCHES = 200
"""The maximum number of batches in one sweep."""
_BREATH = 0.05
"""Seconds between two batches, so that purging does not hold up sagas."""


async def purge_by_itself(databases: Databases, retention: timedelta) -> None:
    """Sweep periodically until cancelled."""
    await asyncio.sleep(uniform(*FIRST))  # noqa: S311
    while True:
        wait = EVERY
        try:
            purged, is_done = await sweep(databases, retention)
            wait = EVERY if is_done else _SOON
            if purged.rows:
                _log.info("purged %s", purged)
        except Exception as fault:
            fault_log_of(databases).failed(f"purging failed and is retried in {wait:.0f} s", fault)
        await asyncio.sleep(wait)


async def sweep(databases: Databases, retention: timedelta, *, batches: int = _BATCHES) -> tuple[Purge, bool]:
    """Purge data that is older than the retention, up to a number of batches.

    Returns:
        The counts of what was purged, and whether all such data is deleted now.
    """
    before = await database_time(databases.home) - retention
    purged = Purge()
    for _ in range(batches):
        batch = await purge_some(databases, before=before)
        purged += batch
        if not batch.rows:
            return purged, True
        await asyncio.sleep(_BREATH)
    return purged, False
