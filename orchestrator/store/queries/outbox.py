"""Reading the outbox for a person and for metrics: what waits, for how long, and why. Nothing is changed by asking."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select

from orchestrator.protocol.envelope import UnreadableEvent, read
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox
from orchestrator.store.outbox import Target
from orchestrator.store.queries.sagas import reading

_COUNTED = 100_000
_UNREADABLE = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Unsent events of one database."""

    count: int
    """At most 100,000 are counted."""
    lag: timedelta
    """How long the first of them has waited; nothing if none waits."""
    error: str | None
    """Why the first of them was not sent when that was tried last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingGroup:
    """Unsent events of one type and one key."""

    event_type: str
    """`?` where the envelope cannot be read."""
    key: str | None
    count: int
    oldest: datetime
    attempts: int
    """The most that one of them has had."""
    error: str | None
    """Of the first of them that has one."""


async def waiting(database: Database) -> Waiting:
    """How many events wait to be sent, and since when."""
    unsent = select(saga_outbox.c.id).where(_is_waiting()).limit(_COUNTED).subquery()
    first = select(saga_outbox.c.created_at, clock.now().label("now"), saga_outbox.c.error)
    first = first.where(_is_waiting()).order_by(saga_outbox.c.id).limit(1)
    async with database.reading() as connection:
        count = await connection.scalar(select(func.count()).select_from(unsent)) or 0
        found = (await connection.execute(first)).first()
    if found is None:
        return Waiting(count=count, lag=timedelta(0), error=None)
    return Waiting(count=count, lag=max(found.now - found.created_at, timedelta(0)), error=found.error)


async def waiting_groups(database: Database, *, limit: int) -> Sequence[WaitingGroup]:
    """The first of the events that wait, by type and key, those first that have waited longest.

    Args:
        database: which one.
        limit: events that are looked at.

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
    return sorted(groups.values(), key=lambda one: one.oldest)


def _is_waiting() -> ColumnElement[bool]:
    """Unsent; what is only looked after in a moment does not wait until it was tried."""
    is_event = or_(saga_outbox.c.target.is_(None), saga_outbox.c.target != Target.MISSING.value)
    return saga_outbox.c.sent_at.is_(None) & or_(is_event, saga_outbox.c.attempts > 0)
