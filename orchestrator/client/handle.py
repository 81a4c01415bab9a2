"""A handle to one saga that a published event started, or that had been started by it before."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from temporalio.client import Client

from orchestrator.client.outcome import outcome_of
from orchestrator.client.progress import FINISHING, Progress, progress_of
from orchestrator.client.recorded_outcomes import RecordedOutcomes
from orchestrator.drive.messages import Outcome, Phase
from orchestrator.envelope import (
    Envelope,
    UnreadableEvent,
    canonical,
    content_digest,
    read,
    saga_id,
    unwrap,
    unwrap_fields,
)
from orchestrator.errors import EventRejected, SagaCancelled, SagaFailed, UsageError
from orchestrator.event import DomainEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.workflow.names import is_partition

C = TypeVar("C", bound=DomainEvent)


class SagaHandle(Generic[C]):
    """One saga: wait for it, follow it.

    Attributes:
        orchestrator: its class.
        event_id: the event's id; publishing it again is harmless.
        workflow_id: the execution's id, as the Web UI shows it.
        run_id: the run that took the event.
        is_repeat: the saga had completed before; nothing was sent.
    """

    def __init__(
        self,
        client: Client,
        orchestrator: type[Orchestrator[DomainEvent, C, Any]],
        envelope: Envelope,
        workflow_id: str,
        run_id: str | None,
        *,
        is_repeat: bool,
        outcomes: RecordedOutcomes | None = None,
    ) -> None:
        self._client = client
        self._envelope = envelope
        self._outcomes = outcomes
        self.orchestrator = orchestrator
        self.event_id = envelope.event_id
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.is_repeat = is_repeat

    async def outcome(self, *, timeout: timedelta | None = None) -> Outcome:
        """Wait for the saga's outcome, good or bad.

        Raises:
            NotFinished: it has not ended within the timeout; it goes on.
            EventRejected: `event.id_reused`, the id belongs to another event.
        """
        if is_partition(self.workflow_id):
            outcome = await self._recorded(timeout)
        else:
            outcome = await outcome_of(self._client, self.workflow_id, self.run_id, timeout)
        if not self._is_of(outcome):
            raise EventRejected(
                "event.id_reused",
                f"event id {self.event_id} was used before for other content; the first counts, and this was not done. "
                "Give each event an id of its own",
            )
        return outcome

    async def _recorded(self, timeout: timedelta | None) -> Outcome:
        if self._outcomes is None:
            raise UsageError(
                f"{self.workflow_id} carries many sagas, and the outcome of one is read from the database: connect "
                "with EventBus.connect(), or give the bus its database"
            )
        key = saga_id(self.orchestrator.__name__, self.event_id)
        return await self._outcomes.of(key, self.workflow_id, timeout)

    def _is_of(self, outcome: Outcome) -> bool:
        """Whether the outcome is of this event, and not of another that had its id before."""
        if outcome.content_digest == self._envelope.content_digest:
            return True
        # One of the two may have been sent by an older contract, without a default that the other wrote.
        try:
            given = unwrap(self._envelope, *self.orchestrator.requests)
            if outcome.content_digest != content_digest(
                self._envelope.event_type, outcome.triggering_version, outcome.triggering
            ):
                return False  # of another type
            return unwrap_fields(outcome.triggering, outcome.triggering_version, type(given)) == given
        except UnreadableEvent:
            return False

    async def result(self, *, timeout: timedelta | None = None) -> C:
        """Wait for the completed event.

        Raises:
            SagaFailed: the saga was undone; `SagaCancelled` if a person cancelled it.
            NotFinished: it has not ended within the timeout; it goes on.
            EventRejected: `event.id_reused`, the id belongs to another event.
        """
        outcome = await self.outcome(timeout=timeout)
        told = read(canonical(outcome.event))
        if outcome.phase is Phase.COMPLETED:
            return cast(C, unwrap(told, self.orchestrator.completed))
        failure = unwrap(told, self.orchestrator.failed)
        error = SagaCancelled if outcome.phase is Phase.CANCELLED else SagaFailed
        raise error(failure.error_code, failure.message, failure)

    def follow(self) -> AsyncGenerator[Progress]:
        """What the saga does, as it does it, until its execution ends; of one in a partition, how it ends."""
        if is_partition(self.workflow_id):
            return self._ending()
        return progress_of(self._client, self.workflow_id, self.run_id)

    async def _ending(self) -> AsyncGenerator[Progress]:
        outcome = await self.outcome()
        yield Progress(f"{FINISHING}{'completed' if outcome.phase is Phase.COMPLETED else 'undone'}", "done")
