"""A client's query for the outcomes of sagas and for events, and the reply from the tables.

Both travel as JSON if a worker runs the query for the client.
"""

from datetime import datetime, timedelta
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from orchestrator.protocol.commands import Outcome

REPLY_BYTES = 1024 * 1024
"""The approximate size limit of one reply. A single outcome or event is returned whatever its size."""
OVERLAP = timedelta(minutes=1)
"""How far back each query looks again, because an event may be committed after a later one, and clocks differ."""
LOOKUP_SAGAS = 500
"""The most sagas in one query."""
LOOKUP_KEYS = 2_000
"""The most already received events that a query normally lists. Now and then it lists all of the last `OVERLAP`."""


class _Message(BaseModel):
    """A frozen model that ignores fields which a newer version has added."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class EventFilter(_Message):
    """Selects the events that a query returns."""

    types: tuple[str, ...]
    since: datetime | None = None
    """The earliest recording time, by the clock of the process that recorded the event; None for the last `OVERLAP`."""
    known: str = ""
    """The packed fingerprints of events that the client already has."""
    seen: frozenset[str] = frozenset()
    """The keys of events that the client already has, from clients that do not know fingerprints."""
    keys_only: bool = False
    """Whether to return only the keys of the latest `LOOKUP_KEYS` events."""
    as_fingerprints: bool = False
    """Whether, with `keys_only`, to return all of them as fingerprints."""


class Lookup(_Message):
    """A query for any number of sagas and event types."""

    sagas: tuple[UUID, ...] = ()
    open_too: bool = False
    """Whether to also return sagas that have not ended."""
    events: EventFilter | None = None
    seconds: float = 0.0
    """For how many seconds to repeat the query while its result is empty."""


class SagaEntry(_Message):
    """A saga that has a row."""

    saga: UUID
    content_digest: str
    """The content digest of the event that the saga was opened with."""
    outcome: Outcome | None
    """The outcome, or None if the saga has not ended."""


class EventEntry(_Message):
    """An event that has been accepted by an orchestrator, or is in an outbox, or both."""

    key: str
    """The event's type and id."""
    type: str
    recorded_at: datetime
    envelope: dict[str, JsonValue] | None = None


class LookupReply(_Message):
    """The result of a query."""

    sagas: tuple[SagaEntry, ...] = ()
    """Sagas that have ended, possibly not all of them in one reply; with `open_too` also others that have a row."""
    events: tuple[EventEntry, ...] = ()
    """The events, ordered by recording time."""
    fingerprints: str = ""
    """The packed fingerprints of events, if the query asked for them."""
    fingerprints_since: datetime | None = None
    """The earliest recording time of the events in `fingerprints`; None if no event was left out."""
    has_more: bool = False
    """Whether there are more events, recorded later than these."""
    now: datetime | None = None
    """The database's time when the events were selected."""

    @property
    def has_results(self) -> bool:
        """Whether the reply contains any saga or event."""
        return bool(self.events or self.sagas)
