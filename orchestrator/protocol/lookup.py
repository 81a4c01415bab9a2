"""What a client asks of the tables, and what they say: outcomes of sagas, and events as they go through.

Travels as JSON where a worker answers. Knows neither Temporal nor SQL.
"""

from datetime import datetime, timedelta
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from orchestrator.protocol.commands import Outcome

ANSWER_BYTES = 1024 * 1024
"""About as much as one answer carries; one saga's outcome, or one event, is carried whatever its size."""
OVERLAP = timedelta(minutes=1)
"""How far back each look goes: what was recorded earlier may be committed later, and clocks differ."""
ASKED_SAGAS = 500
"""Sagas in one question."""
ASKED_SEEN = 2_000
"""Events in most questions that the asker has heard of; now and then it names all of the last `OVERLAP`."""


class _Message(BaseModel):
    """Frozen; what a newer one adds is left aside."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class EventFilter(_Message):
    """Which events."""

    types: tuple[str, ...]
    since: datetime | None = None
    """Recorded at that time or later, by the clock of whoever wrote them; None: within the last `OVERLAP`."""
    heard: str = ""
    """Fingerprints of those that the asker has, packed."""
    seen: frozenset[str] = frozenset()
    """Keys of those that the asker has, from clients of before fingerprints."""
    keys_only: bool = False
    """The latest `ASKED_SEEN` of them, without what they say."""
    as_fingerprints: bool = False
    """With `keys_only`: all of them, as fingerprints."""


class Lookup(_Message):
    """Of any number of sagas and types of events at once."""

    sagas: tuple[UUID, ...] = ()
    open_too: bool = False
    """Whether sagas are told that have not ended."""
    events: EventFilter | None = None
    seconds: float = 0.0
    """How long to look again, as long as there is nothing to tell."""


class SagaEntry(_Message):
    """A saga that has a row."""

    saga: UUID
    content_digest: str
    """Of the event that it was opened with."""
    outcome: Outcome | None
    """None: it has not ended."""


class EventEntry(_Message):
    """An event that went through: accepted by an orchestrator, or in an outbox, or both."""

    key: str
    """Its type and its id."""
    type: str
    recorded_at: datetime
    envelope: dict[str, JsonValue] | None = None


class LookupReply(_Message):
    """What the tables say."""

    sagas: tuple[SagaEntry, ...] = ()
    """Those that have ended, perhaps not all at once; and others that have a row, if that was asked for."""
    events: tuple[EventEntry, ...] = ()
    """By the time at which they were recorded."""
    heard: str = ""
    """Fingerprints of events, packed, if they were asked for."""
    heard_since: datetime | None = None
    """The fingerprints are of events recorded then or later; None: of all that were asked for."""
    has_more: bool = False
    """There are more events, recorded later than these."""
    now: datetime | None = None
    """The database's time as the events were looked for."""

    @property
    def tells(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.events or self.sagas)
