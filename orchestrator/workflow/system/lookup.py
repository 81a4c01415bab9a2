"""Answers for clients that cannot reach the database: a workflow that has a worker look, for a while if need be.

Deterministic and short-lived; one runs for each client that waits just now, and whatever it says stands in the tables.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.protocol.reserved_names import ANSWERS_WORKFLOW

ANSWER = "saga.answer"
"""The activity; `SagaLookups` is the workflow. Names on the wire, as those in `names`."""
LOOK = timedelta(seconds=20)
"""How long one look goes on at most, if there is nothing to tell."""
RUN = timedelta(seconds=60)
"""After that an execution that no worker took is gone; who asked asks again."""
_SILENCE = timedelta(seconds=5)


@workflow.defn(name=ANSWERS_WORKFLOW)
class SagaLookups:
    """Tells a client without a database how sagas ended and which events went through."""

    @workflow.run
    async def run(self, question: Lookup) -> LookupReply:
        """One look."""
        answer: LookupReply = await workflow.execute_activity(
            ANSWER,
            question,
            result_type=LookupReply,
            start_to_close_timeout=LOOK + _SILENCE,
            heartbeat_timeout=_SILENCE,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=_SILENCE),
            summary=f"look for {len(question.sagas)} sagas{' and for events' if question.events else ''}",
        )
        return answer
