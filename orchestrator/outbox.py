"""Adding events to the outbox: an event that goes out if and only if the transaction it tells of commits.

    from orchestrator import outbox

    await outbox.add(session, OrderPlaced(order_id=order.id))

For an operation's `Transaction`, and for any session or connection of SQLAlchemy on a database that has the table
`saga_outbox`: home, and each of ORCHESTRATOR_DATABASES. Writes the row and nothing else; a worker's relay sends it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from orchestrator.errors import EventRejected, UsageError
from orchestrator.event import DomainEvent, unstorable
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read, unwrap, wrap
from orchestrator.protocol.event_ids import new_event_id
from orchestrator.protocol.lock_keys import KEY_LIMIT
from orchestrator.store.core.schema import saga
from orchestrator.store.outbox import NO_SAGA, Target, home_of_step, write
from orchestrator.transaction import Transaction
from orchestrator.values.publishable import check_publishable

__all__ = ["add", "add_sync"]

SOURCE = "orchestrator/outbox"
"""CloudEvents `source` of what no saga adds."""


@dataclass(frozen=True, slots=True)
class _Cause:
    """The saga in whose step an event is added."""

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
    """Add an event to the outbox, in the caller's transaction and with it alone.

    In an operation it says that the step happened: it goes out when the step has committed, also if the saga is undone
    later. What is to be told only when a saga has ended belongs in its completed event.

    Args:
        tx: an operation's `Transaction`, or any `AsyncSession` or `AsyncConnection`.
        event: what happened.
        key: events of one key are sent one after the other, in the order in which their transactions commit. Until this
            one ends, others that add to the key wait: add late.
        event_id: the idempotency key; made up if not given: in a step the same on every attempt, else a UUIDv7.
        time: when it happened, with its time zone; now if not given.
        needs_listener: that no orchestrator starts on it is a fault, and makes it a dead letter. Else it is sent to
            whoever listens, perhaps nobody.

    Returns:
        The event's id.

    Raises:
        EventRejected: the event is invalid or too large, its id is none, or was added before for other content.
        UsageError: `tx` is no such thing, its database has no outbox, or the key is none.
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
    session: Session | Connection,
    event: DomainEvent,
    *,
    key: str | None = None,
    event_id: str | None = None,
    time: datetime | None = None,
    needs_listener: bool = False,
) -> str:
    """As `add`, in the transaction of a session or connection that is not asynchronous."""
    _check(session, (Session, Connection), event, key)
    envelope = enveloped(event, event_id, time, None)
    connection = session if isinstance(session, Connection) else session.connection()
    _add(connection, envelope, event, key, None, needs_listener)
    return envelope.event_id


def _form(tx: object, event: object) -> str:
    asynchronous = isinstance(tx, AsyncSession | AsyncConnection)
    right = "await outbox.add" if asynchronous or not isinstance(tx, Session | Connection) else "outbox.add_sync"
    return f"{type(tx).__name__} is none that it knows: write `{right}(session, {type(event).__name__}(...))`"


def _check(tx: object, wanted: tuple[type, ...], event: object, key: object) -> None:
    if not isinstance(tx, wanted):
        raise UsageError(f"the outbox takes a transaction first, and {_form(tx, event)}")
    if not isinstance(event, DomainEvent):
        raise UsageError(f"the outbox takes a DomainEvent, and {type(event).__name__} is none")
    if key is not None and (not isinstance(key, str) or not 1 <= len(key) <= KEY_LIMIT or unstorable(key)):
        raise UsageError(f"the outbox takes as a key a text of 1 to {KEY_LIMIT} characters that a database can hold")


def enveloped(
    event: DomainEvent, event_id: str | None, time: datetime | None = None, cause: _Cause | None = None
) -> Envelope:
    """The event in its envelope, as it will be sent.

    Raises:
        EventRejected: the id is none, the event is invalid or too large.
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
    connection: Connection,
    envelope: Envelope,
    event: DomainEvent,
    key: str | None,
    cause: _Cause | None,
    needs_listener: bool,
) -> None:
    target = Target.REQUIRED if needs_listener else Target.LISTENERS
    try:
        there = write(connection, envelope, key=key, target=target, saga_id=NO_SAGA if cause is None else cause.saga_id)
    except (OperationalError, ProgrammingError) as fault:
        if "saga_outbox" not in str(fault.orig) or "column" in str(fault.orig):
            raise
        raise UsageError(
            "this database has no table saga_outbox: a worker makes it in the home database and in each of "
            "ORCHESTRATOR_DATABASES; start one, or add to the outbox of one of those"
        ) from fault
    if there is not None and not _is_repeat(read(there), envelope, event):
        raise EventRejected(
            "event.id_reused",
            f"{event.type_name()}: id: {envelope.event_id} was added before for other content; the first counts. Give "
            "each event its own id",
        )


def _is_repeat(known: Envelope, given: Envelope, event: DomainEvent) -> bool:
    if known.content_digest == given.content_digest:
        return True
    try:
        return unwrap(known, type(event)) == event
    except UnreadableEvent:
        return False


async def _cause(tx: Transaction, connection: AsyncConnection) -> _Cause:
    """The saga of a step, and its event, which says with what it all began. Read once in a step."""
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
    # A step that is tried out without its saga.
    event = Envelope(event_id=tx.event_id, event_type="", version=1, time=tx.event_time, source="", data={}, text="")
    return _Cause(tx.saga_id, SOURCE, event)
