"""Purging by itself: while a worker runs it deletes what is older than the retention, a little at a time.

Any number of workers may do so at once. What fails is told and tried again later; no saga waits for it.
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
"""The same where one did not come to its end."""
FIRST = (5.0, 60.0)
"""Between these the first one comes: workers start together, and need not purge together."""
_BATCHES = 200
"""Batches that one sweep takes at most."""
_BREATH = 0.05
"""Seconds between two batches, for everybody else."""


async def purge_by_itself(databases: Databases, retention: timedelta) -> None:
    """Sweep again and again, until it is cancelled."""
    await asyncio.sleep(uniform(*FIRST))  # noqa: S311
    while True:
        wait = EVERY
        try:
            purged, is_done = await sweep(databases, retention)
            wait = EVERY if is_done else _SOON
            if purged.rows:
                _log.info("purged %s", purged)
        except Exception as fault:
            fault_log_of(databases).failed(f"purging, which is tried again in {wait:.0f} s,", fault)
        await asyncio.sleep(wait)


async def sweep(databases: Databases, retention: timedelta, *, batches: int = _BATCHES) -> tuple[Purge, bool]:
    """Purge what is older than the retention, as far as one sweep goes.

    Returns:
        What was purged, and whether nothing is left.
    """
    before = await database_time(databases.home) - retention
    purged = Purge()
    for _ in range(batches):
        some = await purge_some(databases, before=before)
        purged += some
        if not some.rows:
            return purged, True
        await asyncio.sleep(_BREATH)
    return purged, False
