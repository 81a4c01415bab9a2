"""An event bus that records what is published and answers from a table, for tests of code that publishes."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self, TypeGuard, TypeVar, cast

from temporalio.client import Client

from orchestrator.client import BlockingEventBus, EventBus, Listening, SagaHandle
from orchestrator.client.listening import EventLog
from orchestrator.client.outcomes.progress import FINISHING, Progress
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import (
    EventRejected,
    EventTimeout,
    PublishIncomplete,
    Refused,
    SagaCancelled,
    SagaFailed,
    SagaUnknown,
    Unreachable,
    UsageError,
)
from orchestrator.event import DomainEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.messages.envelope import Envelope, wrap
from orchestrator.protocol.messages.unwrapping import failure_event, id_reused, is_same_event
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.connections.event_loop import LoopBinding

C = TypeVar("C", bound=DomainEvent)
Heard = TypeVar("Heard", bound=DomainEvent)

Answer = DomainEvent | Exception
"""How one saga ends: its completed event, a `Refused`, or another exception, which is raised."""
Answers = Answer | list[Answer] | Callable[[Any], Answer]
"""An answer for every saga, a list with one for each, or a function of the event."""

_PUBLISHING_FAULTS = (EventRejected, PublishIncomplete, Unreachable)
"""Errors that publishing raises, so that no saga begins."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that was sent to one saga."""

    event: DomainEvent
    to: AnyOrchestrator
    triggering_event_id: str


class RecordingBus(EventBus):
    """An event bus without a server: it records each event, and answers with what the test says.

        bus = RecordingBus({MoneyTransfer: MoneyTransferCompleted(...)})
        await transfer(bus, ...)
        assert bus.published == {"transfer-7": MoneyTransferRequested(...)}

    Events are checked as the real bus checks them. An event that is published again under its id begins no saga.

    Args:
        answers: how the sagas of each orchestrator end. An answer is the completed event, a `Refused` (the saga fails
            with it) or another exception; a list has one answer for each saga; a function gets the event. `Unreachable`
            and other errors of publishing are raised by `publish`, all others by the handle.
        catalog: what listens to events; by default the orchestrators in `answers`.
        events: what `next_event` and `listening` receive, in order; when none is left that matches, the time is up.

    Attributes:
        published: every event that was accepted, by its id, in order.
        sent: every event that was sent to a saga, in order.
    """

    def __init__(
        self,
        answers: Mapping[AnyOrchestrator, Answers] | None = None,
        *,
        catalog: Catalog | None = None,
        events: Sequence[DomainEvent] = (),
    ) -> None:
        # A list is used up, and the test's own stays as it is.
        self._answers = {one: list(answer) if _is_list(answer) else answer for one, answer in (answers or {}).items()}
        known = catalog or Catalog.of(orchestrators=self._answers)
        super().__init__(cast(Client, _NoServer()), known, source="orchestrator/testing")
        self._loop = _AnyLoop("", "")
        self._handles: dict[str, RecordedHandle[Any]] = {}
        self._events = events
        self.published: dict[str, DomainEvent] = {}
        self.sent: list[Sent] = []

    def blocking(self) -> BlockingEventBus:
        """Return a blocking bus that publishes to this one, for tests of code without an event loop."""

        async def connect() -> EventBus:
            return self

        return BlockingEventBus(connect)

    async def publish_raw(self, raw: bytes | str) -> list[SagaHandle[Any]]:
        """Record a message of another system; one that is rejected is stored nowhere."""
        return await self.publish_envelope(raw)

    def saga(self, orchestrator: type[Orchestrator[Any, C, Any]], event_id: str) -> SagaHandle[C]:
        """Return a handle to a saga of an event that was published before; of another one its methods raise."""
        workflow_id = own_workflow_id(orchestrator.__name__, event_id)
        unknown = SagaUnknown(f"{orchestrator.__name__} has no saga for the event {event_id}, which was not published")
        return self._handles.get(workflow_id) or RecordedHandle(orchestrator, event_id, workflow_id, None, unknown)

    def listening(
        self, event: type[Heard], *, matching: Callable[[Heard], bool] | None = None, since: datetime | None = None
    ) -> Listening[Heard]:
        """Receive the test's events of a type."""
        return RecordedListening(self._log, event, matching, since, self._events)

    async def close(self) -> None:
        """Do nothing, because there is no connection."""

    async def _send(self, listener: AnyOrchestrator, event: DomainEvent | None, envelope: Envelope) -> SagaHandle[Any]:
        workflow_id = own_workflow_id(listener.__name__, envelope.event_id)
        known = self._handles.get(workflow_id)
        if known is not None and known.envelope is not None:
            if not is_same_event(envelope, known.envelope.content_digest, known.envelope.text, *listener.requests):
                reused = id_reused(envelope.event_id)
                raise EventRejected(reused.code, reused.message)
            known.is_repeat = isinstance(known.answer, DomainEvent)
            return known
        answer = self._answer(listener, event)
        if isinstance(answer, _PUBLISHING_FAULTS):
            raise answer
        if event is not None:
            self.published[envelope.event_id] = event
        handle = RecordedHandle(listener, envelope.event_id, workflow_id, envelope, answer)
        self._handles[workflow_id] = handle
        return handle

    async def _signal(
        self, to: AnyOrchestrator, triggering_event_id: str, event: DomainEvent, envelope: Envelope
    ) -> None:
        self.sent.append(Sent(event, to, triggering_event_id))

    def _answer(self, orchestrator: AnyOrchestrator, event: DomainEvent | None) -> Answer:
        name, completed = orchestrator.__name__, orchestrator.completed
        answer: Any = self._answers.get(orchestrator)
        if answer is None:
            return UsageError(
                f"the test gives no answer for {name}: RecordingBus({{{name}: {completed.__name__}(...)}})"
            )
        if _is_list(answer):
            if not answer:
                return UsageError(f"the test has no answer left for {name}, whose list is used up")
            answer = answer.pop(0)
        elif not isinstance(answer, DomainEvent | Exception):
            answer = answer(event)
        if not isinstance(answer, Exception | completed):
            return UsageError(
                f"the test answers {name} with {type(answer).__name__}; it ends with {completed.__name__}"
            )
        return answer


class RecordedHandle(SagaHandle[C]):
    """A handle to a saga whose end the test decides."""

    def __init__(
        self,
        orchestrator: type[Orchestrator[Any, C, Any]],
        event_id: str,
        workflow_id: str,
        envelope: Envelope | None,
        answer: Answer,
    ) -> None:
        self.orchestrator = orchestrator
        self.event_id = event_id
        self.workflow_id = workflow_id
        self.run_id = None
        self.is_repeat = False
        self.envelope = envelope
        self.answer = answer

    async def result(self, *, timeout: timedelta | None = None) -> C:
        """Return the completed event, or raise what the test says."""
        end = self._end()
        if isinstance(end, Exception):
            raise end
        return cast(C, end)

    async def outcome(self, *, timeout: timedelta | None = None) -> Outcome:
        """Return the outcome, or raise what the test says."""
        end = self._end()
        match end:
            case SagaCancelled():
                return self._outcome_of(Phase.CANCELLED, end.failure, end)
            case SagaFailed():
                return self._outcome_of(Phase.FAILED, end.failure, end)
            case Exception():
                raise end
            case completed:
                return self._outcome_of(Phase.COMPLETED, completed, None)

    async def follow(self) -> AsyncGenerator[Progress]:
        """Yield the end."""
        outcome = await self.outcome()
        yield Progress(f"{FINISHING}{'completed' if outcome.phase is Phase.COMPLETED else 'undone'}", "done")

    def _end(self) -> Answer:
        if not isinstance(self.answer, Refused) or self.envelope is None:
            return self.answer
        refusal, envelope = self.answer, self.envelope
        failure = failure_event(
            self.orchestrator.failed,
            envelope,
            error_code=refusal.code,
            message=refusal.message,
            undone=(),
            details=refusal.details,
        )
        return SagaFailed(refusal.code, refusal.message, failure)

    def _outcome_of(self, phase: Phase, event: DomainEvent, failed: SagaFailed | None) -> Outcome:
        triggering = self.envelope
        assert triggering is not None
        end = wrap(event, event_id=f"{self.event_id}:end", source=f"orchestrator/{self.orchestrator.__name__}")
        return Outcome(
            phase=phase,
            event_id=self.event_id,
            content_digest=triggering.content_digest,
            triggering=dict(triggering.data),
            triggering_version=triggering.version,
            event=json.loads(end.text),
            error_code=None if failed is None else failed.code,
            message=None if failed is None else failed.message,
        )


class RecordedListening(Listening[Heard]):
    """Receives the events that the test gives."""

    def __init__(
        self,
        log: EventLog,
        event: type[Heard],
        matching: Callable[[Heard], bool] | None,
        since: datetime | None,
        events: Sequence[DomainEvent],
    ) -> None:
        super().__init__(log, event, matching, since)
        self._left = [one for one in events if isinstance(one, event) and (matching is None or matching(one))]

    async def __aenter__(self) -> Self:
        """Start with the first event."""
        return self

    async def next(self, *, timeout: timedelta | None = None) -> Heard:
        """Return the next event that matches; no time passes."""
        if not self._left:
            name = self.event.type_name()
            raise EventTimeout(f"the test has no {name} left that matches; give more in RecordingBus(events=[...])")
        return self._left.pop(0)


def _is_list(answer: object) -> TypeGuard[list[Answer]]:
    return isinstance(answer, list)


class _AnyLoop(LoopBinding):
    """Belongs to no event loop, because a test's loop may differ from that of the code under test."""

    def check(self) -> None:
        """Allow every event loop."""


class _NoServer:
    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"a RecordingBus has no connection to Temporal, and something asked it for {name!r}")
