"""The outbox: an event is sent if and only if the transaction that added it commits.

    from orchestrator import outbox

    await outbox.add(session, OrderPlaced(order_id=order.id))

`add` accepts an operation's `Transaction`, and any SQLAlchemy session or connection to a database that has the table
`saga_outbox`: home, and each of ORCHESTRATOR_DATABASES. It only writes a row; a worker's relay sends the event.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from orchestrator.errors import EventRejected, UsageError
from orchestrator.event import DomainEvent, unstorable
from orchestrator.protocol.lock_keys import KEY_LIMIT
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read, wrap
from orchestrator.protocol.messages.event_ids import new_event_id
from orchestrator.protocol.messages.unwrapping import id_reused, is_same_event
from orchestrator.store.connections.django import DjangoConnection, DjangoTransaction
from orchestrator.store.core.schema import saga
from orchestrator.store.outbox import NO_SAGA, Target, home_of_step, write
from orchestrator.transaction import Transaction
from orchestrator.values.publishable import check_publishable

__all__ = ["add", "add_sync"]

SOURCE = "orchestrator/outbox"
"""The CloudEvents `source` of events that are added outside of a saga."""


@dataclass(frozen=True, slots=True)
class _Cause:
    """The saga whose step adds an event."""

    saga_id: UUID
    source: str
    event: Envelope


async def add(
    tx: AsyncSession | AsyncConnection,
    event: DomainEvent,
    *,
    key: str | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
    needs_listener: bool = False,
) -> str:
    """Add an event to the outbox in the caller's transaction.

    In an operation, the event says that the step happened: it is sent once the step has committed, even if the saga is
    undone later. Data that must not be published before the saga has ended belongs in its completed event.

    Args:
        tx: an operation's `Transaction`, or any `AsyncSession` or `AsyncConnection`.
        event: the event to send.
        key: events with the same key are sent one after the other, in the order in which their transactions commit.
            Other transactions that add to the key wait until this one ends, so add late in the transaction.
        event_id: the idempotency key. Without it, one is generated: in a step the same one on every attempt,
            otherwise a UUIDv7.
        time: when the event happened, with its time zone; without it, now.
        needs_listener: whether to store the event as a dead letter if no orchestrator listens to it. Otherwise an event
            without listeners counts as sent.

    Returns:
        The event's id.

    Raises:
        EventRejected: the event is invalid or too large, or its id is invalid or already used for different content.
        UsageError: `tx` is not a transaction, its database has no outbox, or the key is invalid.
    """
    _check(tx, (AsyncSession, AsyncConnection), event, key)
    connection = tx if isinstance(tx, AsyncConnection) else await tx.connection()
    cause = None
    if isinstance(tx, Transaction):
        cause = await _cause(tx, connection)
        event_id = event_id or str(tx.uuid())
    envelope = enveloped(event, event_id, time, cause)
    await connection.run_sync(_add, envelope, event, key, cause, needs_listener)
    return envelope.event_id


def add_sync(
    session: Session | Connection | DjangoConnection,
    event: DomainEvent,
    *,
    key: str | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
    needs_listener: bool = False,
) -> str:
    """Add an event to the outbox, as `add` does, through a synchronous session or connection.

    Django's `django.db.connection` is one, too, inside `transaction.atomic()`.
    """
    _check(session, (Session, Connection, DjangoConnection), event, key)
    envelope = enveloped(event, event_id, time, None)
    connection: Connection | DjangoTransaction
    match session:
        case Connection():
            connection = session
        case Session():
            connection = session.connection()
        case _:
            connection = DjangoTransaction(session)
    _add(connection, envelope, event, key, None, needs_listener)
    return envelope.event_id


def _form(tx: object, event: object) -> str:
    asynchronous = isinstance(tx, AsyncSession | AsyncConnection)
    right = "await outbox.add" if asynchronous or not isinstance(tx, Session | Connection) else "outbox.add_sync"
    return f"{type(tx).__name__} is not one: write `{right}(session, {type(event).__name__}(...))`"


def _check(tx: object, wanted: tuple[type, ...], event: object, key: object) -> None:
    if not isinstance(tx, wanted):
        raise UsageError(f"the outbox takes a transaction as its first argument, and {_form(tx, event)}")
    if not isinstance(event, DomainEvent):
        raise UsageError(f"the outbox takes a DomainEvent, and {type(event).__name__} is not one")
    if key is not None and (not isinstance(key, str) or not 1 <= len(key) <= KEY_LIMIT or unstorable(key)):
        raise UsageError(f"the outbox takes a key of 1 to {KEY_LIMIT} characters that a database can store")


def enveloped(
    event: DomainEvent, event_id: str | None, time: datetime | None = None, cause: _Cause | None = None
) -> Envelope:
    """Return the event in the envelope in which it will be sent.

    Raises:
        EventRejected: the id is invalid, or the event is invalid or too large.
    """
    try:
        envelope = wrap(
            event,
            event_id=new_event_id() if event_id is None else event_id,
            source=SOURCE if cause is None else cause.source,
            time=time,
            because=None if cause is None else cause.event,
        )
        check_publishable(event, envelope.data)
    except UnreadableEvent as fault:
        raise EventRejected(fault.code, f"{event.type_name()}: {fault.message}") from fault
    return envelope


def _add(
    connection: Connection | DjangoTransaction,
    envelope: Envelope,
    event: DomainEvent,
    key: str | None,
    cause: _Cause | None,
    needs_listener: bool,
) -> None:
    target = Target.REQUIRED if needs_listener else Target.LISTENERS
    try:
        there = write(connection, envelope, key=key, target=target, saga_id=NO_SAGA if cause is None else cause.saga_id)
    except Exception as fault:  # of SQLAlchemy, or of the driver that Django uses
        text = str(fault.orig) if isinstance(fault, DBAPIError) else str(fault)
        if "saga_outbox" not in text or "column" in text:
            raise
        raise UsageError(
            "this database has no table saga_outbox. A worker creates it in the home database and in each of "
            "ORCHESTRATOR_DATABASES: start a worker, or add to the outbox of one of those databases"
        ) from fault
    if there is not None and not is_same_event(envelope, read(there).content_digest, there, type(event)):
        reused = id_reused(envelope.event_id)
        raise EventRejected(reused.code, f"{event.type_name()}: {reused.message}")


async def _cause(tx: Transaction, connection: AsyncConnection) -> _Cause:
    """Return the saga of a step and its event, which is the cause of the added event. Both are read once per step."""
    known = cast(_Cause | None, tx.info.get(_CAUSE))
    if known is None:
        known = tx.info[_CAUSE] = await _read_cause(tx, connection)
    return known


_CAUSE = "orchestrator_outbox_cause"


async def _read_cause(tx: Transaction, connection: AsyncConnection) -> _Cause:
    statement = select(saga.c.orchestrator, saga.c.envelope).where(saga.c.id == tx.saga_id)
    home = home_of_step()
    found: Any
    if home is None or home.engine.sync_engine is connection.engine.sync_engine:
        found = (await connection.execute(statement)).first()
    else:
        async with home.reading() as reading:
            found = (await reading.execute(statement)).first()
    if found is not None:
        return _Cause(tx.saga_id, f"orchestrator/{found.orchestrator}", read(found.envelope))
    # A unit test runs the step without its saga.
    event = Envelope(event_id=tx.event_id, event_type="", version=1, time=tx.event_time, source="", data={}, text="")
    return _Cause(tx.saga_id, SOURCE, event)
