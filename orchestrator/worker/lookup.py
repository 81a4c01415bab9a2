"""The activity that answers lookups of clients without a database connection, polling the tables until it can."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from temporalio import activity

from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.lookup import answer
from orchestrator.workflow.system.lookup import ANSWER, LOOK

_SOON, _LATER = 0.02, 0.5
"""First and longest pause between two looks, in seconds. It grows because many clients may be waiting."""
LOOKING = 20
"""Most lookups for which one worker waits at the same time, because each occupies a slot that a saga's step could use.
Any further lookup is answered at once with the tables' current content, and its client asks again."""


def answer_activity(databases: Databases) -> Callable[..., Awaitable[LookupReply]]:
    """Return the activity of `orchestrator.workflow.system.lookup.SagaLookups`."""

    looking = 0

    @activity.defn(name=ANSWER)
    async def look(question: Lookup) -> LookupReply:
        nonlocal looking
        patience = min(question.seconds, LOOK.total_seconds()) if looking < LOOKING else 0.0
        until = monotonic() + patience
        pause = _SOON
        looking += 1
        try:
            while True:
                activity.heartbeat()
                reply = await answer(databases, question)
                if reply.tells or monotonic() >= until or activity.is_worker_shutdown():
                    return reply
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LATER)
        finally:
            looking -= 1

    return look
