"""A handle to one saga, started by this or any other process at any time."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.executions.task_queues import unpolled_queue_of
from orchestrator.client.outcomes.execution_outcome import NoOutcome, outcome_of_execution
from orchestrator.client.outcomes.lookup import LookupUnavailable
from orchestrator.client.outcomes.progress import FINISHING, Progress, progress_of
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.errors import EventRejected, NotFinished, SagaCancelled, SagaFailed, SagaUnknown, Unreachable
from orchestrator.event import DomainEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.messages.envelope import (
    OUTCOME_SIZE_LIMIT,
    Envelope,
    canonical,
    read,
    saga_id,
)
from orchestrator.protocol.messages.unwrapping import id_reused, is_same_event, unwrap
from orchestrator.protocol.names import is_partition

C = TypeVar("C", bound=DomainEvent)

TAKE_TIMEOUT = 5.0
"""How many seconds a partition may take to record a newly published event before its saga counts as unknown."""
_ROW_POLL_INTERVAL = 0.25
"""Seconds."""
_ASK_EXECUTION_AFTER = 0.5
"""Seconds after which the execution is asked as well, because it may know why there will never be an outcome."""


class SagaHandle(Generic[C]):
    """Waits for one saga and follows its progress.

    Attributes:
        orchestrator: the saga's orchestrator.
        event_id: the id of the event that started the saga; publishing the event again under this id is harmless.
        workflow_id: the id of the execution that drives the saga, as the Web UI shows it.
        run_id: the id of the run that accepted the event, if this process published it.
        is_repeat: whether the saga had already completed, so that nothing was sent.
    """

    def __init__(
        self,
        client: Client,
        orchestrator: type[Orchestrator[Any, C, Any]],
        event_id: str,
        workflow_id: str,
        run_id: str | None = None,
        *,
        outcomes: RecordedOutcomes,
        envelope: Envelope | None = None,
        is_repeat: bool = False,
    ) -> None:
        self._client = client
        self._envelope = envelope
        """The published event; None if this handle was created from an event id alone."""
        self._outcomes = outcomes
        self.orchestrator = orchestrator
        self.event_id = event_id
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.is_repeat = is_repeat

    async def outcome(self, *, timeout: timedelta | None = None) -> Outcome:
        """Wait for the saga's outcome, even if its execution ends early or connections are lost meanwhile.

        Args:
            timeout: how long to wait; by default without a limit.

        Raises:
            NotFinished: the saga did not end within the timeout; it continues.
            SagaUnknown: the saga has neither an execution nor a row.
            EventRejected: `event.id_reused`, because the id belongs to another event.
            Unreachable: the database or Temporal could not be reached even once.
        """
        self._outcomes.binding.check()
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                outcome = await self._outcome()
        except TimeoutError:
            queue = await unpolled_queue_of(self._client, self.workflow_id)
            advice = "it continues"
            if queue is not None:
                advice = (
                    f"no worker polls its task queue {queue!r}. Start one there, or set ORCHESTRATOR_TASK_QUEUE of "
                    "this client to the workers'"
                )
            raise NotFinished(f"{self._shown} has not finished within {timeout}; {advice}") from None
        if not self._is_of(outcome):
            fault = id_reused(self.event_id)
            raise EventRejected(fault.code, fault.message)
        return outcome

    async def result(self, *, timeout: timedelta | None = None) -> C:
        """Wait for the completed event.

        Raises:
            SagaFailed: the saga was undone; `SagaCancelled` if a user cancelled it.
            NotFinished: the saga did not end within the timeout; it continues.
            SagaUnknown, EventRejected, Unreachable: as in `outcome`.
        """
        outcome = await self.outcome(timeout=timeout)
        envelope = read(canonical(outcome.event), limit=OUTCOME_SIZE_LIMIT)
        if outcome.phase is Phase.COMPLETED:
            return cast(C, unwrap(envelope, self.orchestrator.completed))
        failure = unwrap(envelope, self.orchestrator.failed)
        error = SagaCancelled if outcome.phase is Phase.CANCELLED else SagaFailed
        raise error(failure.error_code, failure.message, failure)

    async def follow(self) -> AsyncGenerator[Progress]:
        """Yield the saga's progress until its execution ends, or only its end if it has no own execution.

        Raises:
            SagaUnknown, EventRejected, Unreachable: as in `outcome`.
        """
        self._outcomes.binding.check()
        if not is_partition(self.workflow_id):
            try:
                async for progress in progress_of(self._client, self.workflow_id, self.run_id):
                    yield progress
                return
            except RPCError as fault:
                if fault.status is not RPCStatusCode.NOT_FOUND:
                    raise
        outcome = await self.outcome()
        yield Progress(f"{FINISHING}{'completed' if outcome.phase is Phase.COMPLETED else 'undone'}", "done")

    async def _outcome(self) -> Outcome:
        if is_partition(self.workflow_id):
            return await self._outcomes.of(self._saga_id)
        if not self._outcomes.is_local:
            return await self._outcome_by_execution()
        # The row has the outcome a moment before the execution ends, and one query reads many rows.
        recorded = asyncio.create_task(self._outcomes.of(self._saga_id))
        by_execution = asyncio.create_task(self._outcome_by_execution(after=_ASK_EXECUTION_AFTER))
        try:
            await asyncio.wait({recorded, by_execution}, return_when=asyncio.FIRST_COMPLETED)
            is_recorded = recorded.done() and not recorded.cancelled() and recorded.exception() is None
            return recorded.result() if is_recorded else await by_execution
        finally:
            recorded.cancel()
            by_execution.cancel()
            await asyncio.gather(recorded, by_execution, return_exceptions=True)

    async def _outcome_by_execution(self, *, after: float = 0.0) -> Outcome:
        """Return the outcome that the execution returns or, if it returns none, the one that the row records."""
        await asyncio.sleep(after)
        result = await outcome_of_execution(self._client, self.workflow_id, self.run_id)
        match result:
            case Outcome():
                return result
            case EventRejected():
                # The execution may have rejected another message and not this event.
                if not await self._is_recorded():
                    raise result
            case NoOutcome.GONE:
                await self._check_known()
            case _:
                pass
        # Another driver continues the saga, now or after recovery has started one, and records the outcome.
        return await self._outcomes.of(self._saga_id)

    async def _is_recorded(self) -> bool:
        """Whether this event has a row, which then also gets its outcome."""
        try:
            row = await self._outcomes.entry_of(self._saga_id)
        except Unreachable:
            return False
        return row is not None and (self._envelope is None or row.content_digest == self._envelope.content_digest)

    async def _check_known(self) -> None:
        """Verify that a saga without an execution has a row, and wait a moment for it if the event may be in transit.

        Raises:
            SagaUnknown: the saga has no row either.
        """
        may_be_untaken = self._envelope is None and self.orchestrator.partitions is not None
        until = asyncio.get_running_loop().time() + (TAKE_TIMEOUT if may_be_untaken else 0.0)
        while not await self._has_row():
            if asyncio.get_running_loop().time() >= until:
                raise SagaUnknown(
                    f"{self.orchestrator.__name__} has neither a saga nor an execution for the event {self.event_id}, "
                    + (
                        "because it was never published, or was published just now and no worker has processed it yet"
                        if self._envelope is None
                        else "because its execution was deleted before a worker processed it. Publish it again with "
                        "the same id"
                    )
                )
            await asyncio.sleep(_ROW_POLL_INTERVAL)

    async def _has_row(self) -> bool:
        while True:
            try:
                return await self._outcomes.entry_of(self._saga_id) is not None
            except LookupUnavailable:
                await asyncio.sleep(_ROW_POLL_INTERVAL)

    @property
    def _saga_id(self) -> UUID:
        return saga_id(self.orchestrator.__name__, self.event_id)

    @property
    def _shown(self) -> str:
        return f"the saga in {self.workflow_id}" if is_partition(self.workflow_id) else self.workflow_id

    def _is_of(self, outcome: Outcome) -> bool:
        """Whether the outcome belongs to this event, and not to an earlier one with the same id."""
        triggering = outcome.triggering_version, outcome.triggering
        return self._envelope is None or is_same_event(
            self._envelope, outcome.content_digest, triggering, *self.orchestrator.requests
        )
