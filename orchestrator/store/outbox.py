"""The outbox: events leave a database through this table, written with what they tell of and by it alone.

**Order.** Rows of one key are sent by id. That a row is sent only once every earlier row of its key is marked as sent
is all that order needs: a relay that stood still meanwhile, with the row in its hand, sends what another one sent
before, a repeat. Nothing depends on who holds a claim; a claim only keeps two relays from doing the same at once.

**Claims.** `next_at` says from when a row may be taken. Only the first unsent row of a key is ever claimed, and with it
the key. A claim runs out, so a relay may be killed or stopped anywhere.
"""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Float,
    Select,
    Text,
    bindparam,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import storable
from orchestrator.protocol.commands import Opening
from orchestrator.protocol.envelope import Envelope, read
from orchestrator.store.core import clock
from orchestrator.store.core.database import FILLED, Database
from orchestrator.store.core.schema import saga, saga_outbox

FORWARD_AFTER = timedelta(seconds=3)
"""How long a saga's event may take to come to its other listeners, before somebody looks whether it did."""
NO_SAGA = UUID(int=0)
"""In place of a saga's id where none wrote the event."""
RUN = 20
"""Rows of one key that are sent one after the other under one claim."""
_MOST = 400
"""Rows that one claim gives back: each may be as large as an event can be."""

_home: ContextVar[Database | None] = ContextVar("home_of_step", default=None)


@contextmanager
def at_home(database: Database) -> Generator[None]:
    """While a step runs, which may itself be in another database: this is home, where its saga is."""
    token = _home.set(database)
    try:
        yield
    finally:
        _home.reset(token)


def home_of_step() -> Database | None:
    """The home database of the step that runs here, if anybody said."""
    return _home.get()


class Target(StrEnum):
    """Whom a row is for; a saga's outcome event has none, and is for whoever listens."""

    LISTENERS = "listeners"
    """Whoever listens, perhaps nobody."""
    REQUIRED = "listeners, at least one"
    """Whoever listens; that nobody does is a fault."""
    MISSING = "listeners without a saga"
    """Not an event of its own: what started a saga is to come to every other listener, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """An event that waits to be sent."""

    id: int
    event_id: str
    target: str | None
    ordering_key: str | None
    envelope: str
    attempts: int
    created_at: datetime


def write(connection: Connection, envelope: Envelope, *, key: str | None, target: Target, saga_id: UUID) -> str | None:
    """Write an event's row in the caller's transaction.

    Args:
        connection: on which the transaction is.
        envelope: the event.
        key: rows of one key are sent in the order in which their transactions commit: until this one ends, others that
            add to the key wait.
        target: whom it is for.
        saga_id: the saga that it comes from.

    Returns:
        The envelope that stands there under this event id, if one does; nothing was written then.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    if key is not None and is_postgresql:
        # Ids are drawn before they are committed, and the later of two may be seen first. (SQLite has one writer.)
        connection.execute(_LOCK_KEY, {"key": key})
    make: Any = postgresql.insert if is_postgresql else sqlite.insert
    statement = make(saga_outbox).values(
        event_id=envelope.event_id,
        saga_id=saga_id,
        target=target.value,
        ordering_key=key,
        envelope=envelope.text,
        created_at=clock.now(),
    )
    written = connection.execute(statement.on_conflict_do_nothing().returning(saga_outbox.c.id)).first()
    if written is not None:
        fills(connection)
        return None
    there: str = connection.execute(
        select(saga_outbox.c.envelope).where(saga_outbox.c.event_id == envelope.event_id)
    ).scalar_one()
    return there


_LOCK_KEY = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 7164201))")


def fills(connection: Connection | AsyncConnection) -> None:
    """Say that this transaction writes events to be sent."""
    sync = connection.sync_connection if isinstance(connection, AsyncConnection) else connection
    if sync is not None:
        sync.info[FILLED] = True


async def forward(connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog) -> None:
    """See to it that the events of sagas that are opened now come to their other listeners, if they have any.

    A client may die between one listener and the next. Written with the saga's row, so that whoever has the event makes
    up for it; each saga writes a row of its own, so that two that open at once wait for nothing.
    """
    shared = [one for one in openings if read(one.envelope).event_type in catalog.shared]
    if not shared:
        return
    make: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    await connection.execute(
        make(saga_outbox)
        .values(created_at=clock.now(), next_at=clock.now_plus(FORWARD_AFTER.total_seconds()))
        .on_conflict_do_nothing(),
        [
            {
                "event_id": str(uuid5(one.saga.id, "forward")),
                "saga_id": one.saga.id,
                "target": Target.MISSING.value,
                "envelope": one.envelope,
            }
            for one in sorted(shared, key=lambda one: one.saga.id)
        ],
    )


SENT_AT_ONCE = insert(saga_outbox).values(created_at=clock.now(), sent_at=clock.now())
"""An outcome's event that nobody listens to: it stands for who asks."""
_KEY_OF_SAGA = select(saga.c.ordering_key).where(saga.c.id == bindparam("of_saga")).scalar_subquery()
TO_BE_SENT = insert(saga_outbox).values(ordering_key=_KEY_OF_SAGA, created_at=clock.now())
"""An outcome's event that starts others, in the order of its saga's key."""


async def is_due(database: Database) -> bool:
    """Whether there is something to send; asked so that looking writes nothing."""
    async with database.reading() as connection:
        found = await connection.execute(_DUE)
        return found.first() is not None


async def claim(database: Database, *, limit: int, lease: timedelta) -> list[OutboxRow]:
    """Take rows that may be sent now.

    Args:
        database: where they are.
        limit: how many rows without a key, or keys, at most.
        lease: how long nobody else takes them.

    Returns:
        The rows by id; of each key the first unsent ones, as one run.
    """

    async def take(connection: AsyncConnection) -> list[OutboxRow]:
        dialect = connection.dialect.name
        given = {"most": limit, "seconds": lease.total_seconds()}
        claimed = [_row(one) for one in await connection.execute(_claiming(dialect), given)]
        keys = sorted({one.ordering_key for one in claimed if one.ordering_key is not None})
        if keys:
            heads = {one.id for one in claimed}
            runs = await connection.execute(_runs(dialect), {"keys": _list(dialect, keys)})
            claimed += [_row(one) for one in runs if one.id not in heads]
        return sorted(claimed, key=lambda one: one.id)

    return await database.in_transaction(take)


async def mark_sent(database: Database, ids: Sequence[int]) -> None:
    """These were taken by everybody they are for. Safe to repeat, also by who comes late."""
    if not ids:
        return

    async def mark(connection: AsyncConnection) -> None:
        given = {"ids": _list(connection.dialect.name, list(ids))}
        await connection.execute(_marking(connection.dialect.name), given)

    await database.in_transaction(mark)


async def mark_buried(database: Database, row: OutboxRow, error: str) -> None:
    """This one is kept as a dead letter, and is sent no more."""
    statement = (
        update(saga_outbox)
        .where(saga_outbox.c.id == row.id, saga_outbox.c.sent_at.is_(None))
        .values(sent_at=clock.now(), error=storable(error), attempts=saga_outbox.c.attempts + 1)
    )

    async def mark(connection: AsyncConnection) -> None:
        await connection.execute(statement)

    await database.in_transaction(mark)


async def postpone(database: Database, rows: Sequence[tuple[int, str, timedelta]]) -> None:
    """These could not be sent just now: with each the error, and how long it waits."""
    if not rows:
        return

    async def mark(connection: AsyncConnection) -> None:
        given = [{"row": key, "why": storable(why), "seconds": wait.total_seconds()} for key, why, wait in rows]
        await connection.execute(_POSTPONING, given)

    await database.in_transaction(mark)


async def sagas_among(home: Database, ids: Sequence[UUID]) -> set[UUID]:
    """Which of these sagas have a row."""
    async with home.reading() as connection:
        return set(await connection.scalars(select(saga.c.id).where(saga.c.id.in_(ids))))


_COLUMNS = tuple(saga_outbox.c[name] for name in OutboxRow.__dataclass_fields__)
_UNSENT = saga_outbox.c.sent_at.is_(None)


def _row(found: Any) -> OutboxRow:
    return OutboxRow(**{column.name: getattr(found, column.name) for column in _COLUMNS})


_LATER = clock.now_plus(bindparam("seconds", type_=Float()))


def _ready() -> Select[tuple[int]]:
    """Rows that may be taken: of each key at most the first unsent one."""
    earlier = saga_outbox.alias("earlier")
    is_first = (
        ~select(earlier.c.id)
        .where(
            earlier.c.ordering_key == saga_outbox.c.ordering_key,
            earlier.c.id < saga_outbox.c.id,
            earlier.c.sent_at.is_(None),
        )
        .exists()
    )
    may_be_taken = or_(saga_outbox.c.next_at.is_(None), saga_outbox.c.next_at <= clock.now())
    return (
        select(saga_outbox.c.id)
        .where(_UNSENT, may_be_taken, or_(saga_outbox.c.ordering_key.is_(None), is_first))
        .order_by(saga_outbox.c.id)
    )


_DUE = _ready().limit(1)


@cache
def _claiming(dialect: str) -> Any:
    # Locked one after the other and passed over if another relay is at them; seen again as they are by then.
    ready = _ready().limit(bindparam("most")).with_for_update(skip_locked=True)
    taken = ready.cte("ready")
    if dialect == "postgresql":
        taken = taken.prefix_with("MATERIALIZED")
    return (
        update(saga_outbox).where(saga_outbox.c.id.in_(select(taken.c.id))).values(next_at=_LATER).returning(*_COLUMNS)
    )


@cache
def _runs(dialect: str) -> Any:
    """The first unsent rows of each of these keys."""
    columns = ", ".join(f"run.{column.name}" for column in _COLUMNS)
    rows = f"WHERE ordering_key = given.key AND sent_at IS NULL ORDER BY id LIMIT {RUN}"
    if dialect == "sqlite":
        source = (
            "(SELECT value AS key FROM json_each(:keys)) AS given JOIN saga_outbox AS run "  # noqa: S608
            f"ON run.id IN (SELECT id FROM saga_outbox {rows})"
        )
    else:
        source = f"unnest(:keys) AS given(key) CROSS JOIN LATERAL (SELECT * FROM saga_outbox {rows}) AS run"  # noqa: S608
    statement = text(f"SELECT {columns} FROM {source} ORDER BY run.id LIMIT {_MOST}")  # noqa: S608
    return statement.bindparams(_listed("keys", dialect, Text())).columns(*_COLUMNS)


@cache
def _marking(dialect: str) -> Any:
    given: Any
    if dialect == "sqlite":
        given = select(func.json_each(_listed("ids", dialect, Text())).table_valued("value").c.value)
    else:
        given = select(func.unnest(_listed("ids", dialect, BigInteger())))
    return (
        update(saga_outbox)
        .where(saga_outbox.c.id.in_(given), _UNSENT)
        .values(sent_at=clock.now(), error=None, next_at=None)
    )


_POSTPONING = (
    update(saga_outbox)
    .where(saga_outbox.c.id == bindparam("row"), _UNSENT)
    .values(attempts=saga_outbox.c.attempts + 1, error=bindparam("why"), next_at=_LATER)
)


def _listed(name: str, dialect: str, kind: Any) -> Any:
    """A list as one parameter, so that its length makes no other statement."""
    return bindparam(name, type_=Text() if dialect == "sqlite" else ARRAY(kind))


def _list(dialect: str, values: list[Any]) -> Any:
    return json.dumps(values) if dialect == "sqlite" else values
