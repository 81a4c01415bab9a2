"""Read-only queries about the outbox, for display and metrics: which events wait to be sent, for how long, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select

from orchestrator.protocol.messages.envelope import UnreadableEvent, read
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox
from orchestrator.store.outbox import Target
from orchestrator.store.queries.sagas import reading

_COUNTED = 100_000
_UNREADABLE = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The unsent events of one database."""

    count: int
    """The number of unsent events; counting stops at 100,000."""
    lag: timedelta
    """How long the oldest one has waited; zero if none waits."""
    error: str | None
    """Why the last attempt to send the oldest one failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingGroup:
    """The unsent events of one type and one ordering key."""

    event_type: str
    """The event type; `?` if the envelope cannot be read."""
    key: str | None
    count: int
    oldest: datetime
    attempts: int
    """The highest number of attempts for any one of them."""
    error: str | None
    """The error of the oldest one that has an error."""


async def waiting(database: Database) -> Waiting:
    """Return how many events wait to be sent, and for how long."""
    unsent = select(saga_outbox.c.id).where(_is_waiting()).limit(_COUNTED).subquery()
    first = select(saga_outbox.c.created_at, clock.now().label("now"), saga_outbox.c.error)
    first = first.where(_is_waiting()).order_by(saga_outbox.c.id).limit(1)
    async with database.reading() as connection:
        count = await connection.scalar(select(func.count()).select_from(unsent)) or 0
        oldest = (await connection.execute(first)).first()
    if oldest is None:
        return Waiting(count=count, lag=timedelta(0), error=None)
    return Waiting(count=count, lag=max(oldest.now - oldest.created_at, timedelta(0)), error=oldest.error)


async def waiting_groups(database: Database, *, limit: int) -> Sequence[WaitingGroup]:
    """Group the oldest unsent events by type and ordering key; the group that has waited longest comes first.

    Args:
        database: the database whose outbox is read.
        limit: how many events are read.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    rows = select(saga_outbox).where(_is_waiting()).order_by(saga_outbox.c.id).limit(limit)
    groups: dict[tuple[str, str | None], WaitingGroup] = {}
    async with reading(database) as connection:
        for row in await connection.execute(rows):
            try:
                event_type = read(row.envelope).event_type
            except UnreadableEvent:
                event_type = _UNREADABLE
            known = groups.get((event_type, row.ordering_key))
            groups[event_type, row.ordering_key] = WaitingGroup(
                event_type=event_type,
                key=row.ordering_key,
                count=1 if known is None else known.count + 1,
                oldest=row.created_at if known is None else min(known.oldest, row.created_at),
                attempts=row.attempts if known is None else max(known.attempts, row.attempts),
                error=row.error if known is None else known.error or row.error,
            )
    return sorted(groups.values(), key=lambda group: group.oldest)


def _is_waiting() -> ColumnElement[bool]:
    """Select unsent events; a row that only forwards a saga's event counts once an attempt to send it has failed."""
    is_event = or_(saga_outbox.c.target.is_(None), saga_outbox.c.target != Target.MISSING.value)
    return saga_outbox.c.sent_at.is_(None) & or_(is_event, saga_outbox.c.attempts > 0)
