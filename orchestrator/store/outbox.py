"""The outbox: events leave a database only through this table, and are committed together with the change they report.

**Order.** Rows of one key are sent by id. The order needs only one rule: a row is sent only after every earlier row of
its key is marked as sent. If a relay is suspended with a row in hand while another relay sends it, the first one sends
it again later, which is a repeat. The order does not depend on which relay holds a claim; a claim only avoids double
work.

**Claims.** `next_at` is the time from which a row may be claimed. Only the first unsent row of a key is ever claimed,
and with it the key. A claim expires, so a relay may be killed or stopped at any point.
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
from orchestrator.protocol.messages.envelope import Envelope, read
from orchestrator.store.connections.django import DjangoTransaction
from orchestrator.store.core import clock
from orchestrator.store.core.database import FILLED, Database
from orchestrator.store.core.schema import saga, saga_outbox

FORWARD_AFTER = timedelta(seconds=3)
"""How long a saga's event may take to reach its other listeners before a relay checks whether it has."""
NO_SAGA = UUID(int=0)
"""The saga id of an event that was not written by a saga."""
RUN = 20
"""The maximum number of rows of one key that are sent in sequence under one claim."""
_MOST = 400
"""The maximum number of rows that one claim returns; each row may be as large as an event can be."""

_home: ContextVar[Database | None] = ContextVar("home_of_step", default=None)


@contextmanager
def at_home(database: Database) -> Generator[None]:
    """Record the home database of the step that runs in this block, because the step may be in another database."""
    token = _home.set(database)
    try:
        yield
    finally:
        _home.reset(token)


def home_of_step() -> Database | None:
    """Return the home database of the step that runs here; None outside `at_home`."""
    return _home.get()


class Target(StrEnum):
    """The recipients of a row; a saga's outcome event has no target and goes to all listeners."""

    LISTENERS = "listeners"
    """All listeners; there may be none."""
    REQUIRED = "listeners, at least one"
    """All listeners; it is an error if there are none."""
    MISSING = "listeners without a saga"
    """Listeners that have no saga for the event; the row forwards an event that has started a saga elsewhere."""


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


def write(
    connection: Connection | DjangoTransaction, envelope: Envelope, *, key: str | None, target: Target, saga_id: UUID
) -> str | None:
    """Write an event's row in the caller's transaction.

    Args:
        connection: the connection that is in the transaction.
        envelope: the event.
        key: the ordering key, or None. Rows of one key are sent in the order in which their transactions commit: until
            this transaction ends, others that write to the key wait.
        target: the recipients.
        saga_id: the saga that writes the event.

    Returns:
        None if the row was written. Otherwise the envelope that already has this event id; nothing was written.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    if key is not None and is_postgresql:
        # Ids are drawn before the commit, so the later of two may become visible first. (SQLite has one writer.)
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


def fills(connection: Connection | AsyncConnection | DjangoTransaction) -> None:
    """Mark the connection's transaction as one that writes events to be sent, so that its commit wakes a relay."""
    sync = connection.sync_connection if isinstance(connection, AsyncConnection) else connection
    if sync is not None:
        sync.info[FILLED] = True


async def forward(connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog) -> None:
    """Make sure that the events of newly opened sagas reach their other listeners, if they have any.

    A client may die between one listener and the next, so a row is written in the transaction that opens the saga. Each
    saga writes its own row, so that sagas that open at the same time do not wait for each other.
    """
    shared = [opening for opening in openings if read(opening.envelope).event_type in catalog.shared]
    if not shared:
        return
    make: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    await connection.execute(
        make(saga_outbox)
        .values(created_at=clock.now(), next_at=clock.now_plus(FORWARD_AFTER.total_seconds()))
        .on_conflict_do_nothing(),
        [
            {
                "event_id": str(uuid5(opening.saga.id, "forward")),
                "saga_id": opening.saga.id,
                "target": Target.MISSING.value,
                "envelope": opening.envelope,
            }
            for opening in sorted(shared, key=lambda opening: opening.saga.id)
        ],
    )


ALREADY_SENT = insert(saga_outbox).values(created_at=clock.now(), sent_at=clock.now())
"""Inserts an outcome's event that no orchestrator listens to; it is stored for lookups."""
_KEY_OF_SAGA = select(saga.c.ordering_key).where(saga.c.id == bindparam("of_saga")).scalar_subquery()
TO_BE_SENT = insert(saga_outbox).values(ordering_key=_KEY_OF_SAGA, created_at=clock.now())
"""Inserts an outcome's event that starts other sagas, in the order of its saga's key."""


async def is_due(database: Database) -> bool:
    """Whether there is an event to send; a read-only check, so that an idle relay writes nothing."""
    async with database.reading() as connection:
        due = await connection.execute(_DUE)
        return due.first() is not None


async def claim(database: Database, *, limit: int, lease: timedelta) -> list[OutboxRow]:
    """Claim rows that may be sent now.

    Args:
        database: the database that has the outbox.
        limit: the maximum number of rows without a key, and likewise of keys, that are claimed together.
        lease: for how long no other relay claims them.

    Returns:
        The rows by id; for each claimed key its first unsent rows, to be sent in sequence.
    """

    async def claim_rows(connection: AsyncConnection) -> list[OutboxRow]:
        dialect = connection.dialect.name
        parameters = {"most": limit, "seconds": lease.total_seconds()}
        claimed = [_row(row) for row in await connection.execute(_claiming(dialect), parameters)]
        keys = sorted({row.ordering_key for row in claimed if row.ordering_key is not None})
        if keys:
            heads = {row.id for row in claimed}
            runs = await connection.execute(_runs(dialect), {"keys": _list(dialect, keys)})
            claimed += [_row(row) for row in runs if row.id not in heads]
        return sorted(claimed, key=lambda row: row.id)

    return await database.in_transaction(claim_rows)


async def mark_sent(database: Database, ids: Sequence[int]) -> None:
    """Mark rows as sent to all their recipients. Safe to repeat, even by a relay whose claim has expired."""
    if not ids:
        return

    async def mark(connection: AsyncConnection) -> None:
        parameters = {"ids": _list(connection.dialect.name, list(ids))}
        await connection.execute(_marking(connection.dialect.name), parameters)

    await database.in_transaction(mark)


async def mark_rejected(database: Database, row: OutboxRow, error: str) -> None:
    """Mark a row that is stored as a dead letter, so that it is not sent again."""
    statement = (
        update(saga_outbox)
        .where(saga_outbox.c.id == row.id, saga_outbox.c.sent_at.is_(None))
        .values(sent_at=clock.now(), error=storable(error), attempts=saga_outbox.c.attempts + 1)
    )

    async def mark(connection: AsyncConnection) -> None:
        await connection.execute(statement)

    await database.in_transaction(mark)


async def postpone(database: Database, rows: Sequence[tuple[int, str, timedelta]]) -> None:
    """Record for each row that could not be sent its error and how long to wait before the next attempt."""
    if not rows:
        return

    async def mark(connection: AsyncConnection) -> None:
        parameters = [{"row": key, "why": storable(why), "seconds": wait.total_seconds()} for key, why, wait in rows]
        await connection.execute(_POSTPONING, parameters)

    await database.in_transaction(mark)


async def sagas_among(home: Database, ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these sagas have a row."""
    async with home.reading() as connection:
        return set(await connection.scalars(select(saga.c.id).where(saga.c.id.in_(ids))))


_COLUMNS = tuple(saga_outbox.c[name] for name in OutboxRow.__dataclass_fields__)
_UNSENT = saga_outbox.c.sent_at.is_(None)


def _row(row: Any) -> OutboxRow:
    return OutboxRow(**{column.name: getattr(row, column.name) for column in _COLUMNS})


_LATER = clock.now_plus(bindparam("seconds", type_=Float()))


def _ready() -> Select[tuple[int]]:
    """Select the rows that may be claimed: of each key at most the first unsent one."""
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
    # Rows are locked one at a time; rows that another relay has locked are skipped, and each is checked again once
    # locked.
    ready = _ready().limit(bindparam("most")).with_for_update(skip_locked=True)
    taken = ready.cte("ready")
    if dialect == "postgresql":
        taken = taken.prefix_with("MATERIALIZED")
    return (
        update(saga_outbox).where(saga_outbox.c.id.in_(select(taken.c.id))).values(next_at=_LATER).returning(*_COLUMNS)
    )


@cache
def _runs(dialect: str) -> Any:
    """Select the first unsent rows of each of these keys."""
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
    ids: Any
    if dialect == "sqlite":
        ids = select(func.json_each(_listed("ids", dialect, Text())).table_valued("value").c.value)
    else:
        ids = select(func.unnest(_listed("ids", dialect, BigInteger())))
    return (
        update(saga_outbox)
        .where(saga_outbox.c.id.in_(ids), _UNSENT)
        .values(sent_at=clock.now(), error=None, next_at=None)
    )


_POSTPONING = (
    update(saga_outbox)
    .where(saga_outbox.c.id == bindparam("row"), _UNSENT)
    .values(attempts=saga_outbox.c.attempts + 1, error=bindparam("why"), next_at=_LATER)
)


def _listed(name: str, dialect: str, kind: Any) -> Any:
    """Pass a list as a single parameter, so that the statement's text does not depend on its length."""
    return bindparam(name, type_=Text() if dialect == "sqlite" else ARRAY(kind))


def _list(dialect: str, values: list[Any]) -> Any:
    return json.dumps(values) if dialect == "sqlite" else values
