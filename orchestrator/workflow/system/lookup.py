"""A short workflow that looks up outcomes and events for clients that cannot reach the database. It runs one activity.

Each waiting client has its own execution. The replies come from the tables, so an execution stores nothing.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.protocol.reserved_names import LOOKUPS_WORKFLOW

LOOK_UP = "saga.look_up"
"""The activity type. It is part of the wire format, like the constants in `names`. The workflow class is
`SagaLookups`."""
LOOKUP_TIMEOUT = timedelta(seconds=20)
"""How long the activity repeats a query whose result is empty."""
RUN_TIMEOUT = timedelta(seconds=60)
"""The timeout of an execution that no worker runs. After it, the client starts another execution."""
_SILENCE = timedelta(seconds=5)


@workflow.defn(name=LOOKUPS_WORKFLOW)
class SagaLookups:
    """Looks up the outcomes of sagas and recorded events for a client without a database."""

    @workflow.run
    async def run(self, lookup: Lookup) -> LookupReply:
        """Run one query."""
        reply: LookupReply = await workflow.execute_activity(
            LOOK_UP,
            lookup,
            result_type=LookupReply,
            start_to_close_timeout=LOOKUP_TIMEOUT + _SILENCE,
            heartbeat_timeout=_SILENCE,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=_SILENCE),
            summary=f"look up {len(lookup.sagas)} sagas{' and events' if lookup.events else ''}",
        )
        return reply
