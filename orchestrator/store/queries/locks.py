"""Read-only queries about locks, for display: which saga holds each lock, and which sagas wait for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, and_, func, select

from orchestrator.protocol.commands import Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_lock
from orchestrator.store.queries.sagas import reading

_DRAWN = and_(saga_lock.c.ticket > 0, saga_lock.c.saga_id >= UUID(int=0))
"""Selects tickets and not heads. Only tickets have a saga id, so the index on it skips the heads, which may be many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePosition:
    """One saga's position in the queue for a lock."""

    orchestrator: str
    event_id: str
    phase: Phase
    since: datetime
    """When the saga drew its ticket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLock:
    """A lock with its holder."""

    key: str
    holder: QueuePosition
    waiting: int
    """How many sagas wait for the lock."""
    queue: tuple[QueuePosition, ...] = ()
    """The first of the waiting sagas, if they were requested."""


async def held_locks(database: Database, *, limit: int) -> tuple[Sequence[HeldLock], int]:
    """Return the locks with the longest queues, and the number of all held locks.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    length = (func.count() - 1).label("waiting")
    lines = (
        select(saga_lock.c.key, func.min(saga_lock.c.ticket).label("first"), length)
        .where(_DRAWN)
        .group_by(saga_lock.c.key)
        .order_by(length.desc(), saga_lock.c.key)
        .limit(limit)
        .subquery()
    )
    statement = (
        _positions()
        .add_columns(lines.c.waiting)
        .join(lines, (lines.c.key == saga_lock.c.key) & (lines.c.first == saga_lock.c.ticket))
        .order_by(lines.c.waiting.desc(), lines.c.key)
    )
    async with reading(database) as connection:
        rows = (await connection.execute(statement)).all()
        held = await connection.scalar(select(func.count(saga_lock.c.key.distinct())).where(_DRAWN))
    return [HeldLock(key=row.key, holder=_position(row), waiting=row.waiting) for row in rows], held or 0


async def held_lock(database: Database, key: str, *, limit: int) -> HeldLock | None:
    """Return one lock with the first sagas in its queue; None if it is free.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    of_key = (saga_lock.c.key == key) & _DRAWN
    statement = _positions().where(of_key).order_by(saga_lock.c.ticket).limit(limit + 1)
    async with reading(database) as connection:
        rows = (await connection.execute(statement)).all()
        drawn = await connection.scalar(select(func.count()).select_from(saga_lock).where(of_key))
    if not rows:
        return None
    holder, *queue = map(_position, rows)
    return HeldLock(key=key, holder=holder, waiting=max(drawn or 0, len(rows)) - 1, queue=tuple(queue))


def _positions() -> Select[*tuple[Any, ...]]:
    columns = (saga_lock.c.key, saga_lock.c.created_at, saga.c.orchestrator, saga.c.event_id, saga.c.phase)
    return select(*columns).join_from(saga_lock, saga, saga.c.id == saga_lock.c.saga_id)


def _position(row: Row[Any]) -> QueuePosition:
    return QueuePosition(
        orchestrator=row.orchestrator, event_id=row.event_id, phase=Phase(row.phase), since=row.created_at
    )
