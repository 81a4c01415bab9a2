"""The activity that looks into the tables for clients that cannot: again and again, as long as they are patient."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from temporalio import activity

from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.lookup import answer
from orchestrator.workflow.system.lookup import ANSWER, LOOK

_SOON, _LATER = 0.02, 0.5
"""Seconds between two looks: many clients may be waiting."""
LOOKING = 20
"""Clients for which a worker looks at once. Looking takes a place that a saga's step could have: who comes beside these
hears what the tables say now, and comes again."""


def answer_activity(databases: Databases) -> Callable[..., Awaitable[LookupReply]]:
    """The activity of `orchestrator.workflow.system.lookup.SagaAnswers`."""

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
                told = await answer(databases, question)
                if told.tells or monotonic() >= until or activity.is_worker_shutdown():
                    return told
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LATER)
        finally:
            looking -= 1

    return look
