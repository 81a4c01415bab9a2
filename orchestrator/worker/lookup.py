"""The activity that answers lookups of clients without a database connection, by polling the tables."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from temporalio import activity

from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.lookup import answer
from orchestrator.workflow.system.lookup import LOOK_UP, LOOKUP_TIMEOUT

_SOON, _LATER = 0.02, 0.5
"""The first and the longest pause between two reads of the tables, in seconds. It grows, because many clients may
wait."""
CONCURRENT_LOOKUPS = 20
"""The maximum number of lookups that wait in one worker at the same time, because each occupies a slot that a saga's
step could use. Any further lookup is answered immediately with the tables' current content, and its client asks
again."""


def lookup_activity(databases: Databases) -> Callable[..., Awaitable[LookupReply]]:
    """Return the activity of `orchestrator.workflow.system.lookup.SagaLookups`."""

    running = 0

    @activity.defn(name=LOOK_UP)
    async def look_up(lookup: Lookup) -> LookupReply:
        nonlocal running
        patience = min(lookup.seconds, LOOKUP_TIMEOUT.total_seconds()) if running < CONCURRENT_LOOKUPS else 0.0
        until = monotonic() + patience
        pause = _SOON
        running += 1
        try:
            while True:
                activity.heartbeat()
                reply = await answer(databases, lookup)
                if reply.has_results or monotonic() >= until or activity.is_worker_shutdown():
                    return reply
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LATER)
        finally:
            running -= 1

    return look_up
