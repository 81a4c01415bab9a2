"""Lookups in the tables: how sagas ended, and which events were recorded.

An event is recorded when it is in a saga's row, accepted by an orchestrator, or in an outbox. Rows become visible in
the order of their commits, which differs from the order of their ids and of their times. So a listener asks for
all events since some time before its previous lookup, and lists the events that it already knows.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import Text, bindparam, literal, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.lookup import (
    LOOKUP_KEYS,
    OVERLAP,
    REPLY_BYTES,
    EventEntry,
    EventFilter,
    Lookup,
    LookupReply,
    SagaEntry,
)
from orchestrator.protocol.messages.fingerprints import FINGERPRINTS_LIMIT, fingerprint, pack, unpack
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.saga_ids import OF_SAGAS, ids_as_json
from orchestrator.store.core.schema import saga, saga_outbox
from orchestrator.store.outbox import Target

T = TypeVar("T")

_NEGLIGIBLE = timedelta(seconds=1)
"""A difference between two databases' clocks that the overlap of two lookups covers."""
_NEW = 5_000
"""The maximum number of events unknown to the listener that are read from one source at a time."""
_AT_ONCE = 50
"""How many envelopes are read together; each may be large."""


def _look(dialect: str, ended: str) -> Any:
    statement = f"SELECT id, content_digest, outcome FROM saga WHERE outcome {ended} AND id IN {OF_SAGAS[dialect]}"  # noqa: S608
    bound = text(statement).bindparams(bindparam("sagas", type_=Text()))
    return bound.columns(saga.c.id, saga.c.content_digest, saga.c.outcome)


_OPEN = {dialect: _look(dialect, "IS NULL") for dialect in OF_SAGAS}
_ENDED = {dialect: _look(dialect, "IS NOT NULL") for dialect in OF_SAGAS}
_ACCEPTED = select(
    saga.c.id, saga.c.event_type.label("type"), saga.c.event_id, saga.c.created_at.label("recorded_at")
).where(
    saga.c.created_at >= bindparam("since", type_=saga.c.created_at.type),
    saga.c.event_type.in_(bindparam("types", expanding=True)),
    saga.c.purged_at.is_(None),
)


@dataclass(frozen=True, slots=True)
class _EventRow:
    """An event's row without its envelope."""

    entry: EventEntry
    database: Database
    saga_id: UUID | None
    """The saga whose row has the event; None if it is in the outbox."""
    event_id: str


async def answer(databases: Databases, lookup: Lookup) -> LookupReply:
    """Answer a lookup from the tables as they are now.

    Args:
        databases: the home database, and the remote ones, whose outboxes are read as well.
        lookup: the lookup; its `seconds` are for the caller, which asks again.
    """
    sagas: Sequence[SagaEntry] = ()
    room = REPLY_BYTES
    if lookup.sagas:
        sagas, room = await databases.home.read(lambda connection: _sagas(connection, lookup, REPLY_BYTES))
    if lookup.events is None:
        return LookupReply(sagas=tuple(sagas))
    return (await _events(databases, lookup.events, room)).model_copy(update={"sagas": tuple(sagas)})


async def _sagas(connection: AsyncConnection, lookup: Lookup, room: int) -> tuple[list[SagaEntry], int]:
    entries: list[SagaEntry] = []
    dialect = connection.dialect.name
    asked = {"sagas": ids_as_json(dialect, lookup.sagas)}
    if lookup.open_too:
        still_open = await connection.execute(_OPEN[dialect], asked)
        entries += [SagaEntry(saga=row.id, content_digest=row.content_digest, outcome=None) for row in still_open]
    ended = await connection.execute(_ENDED[dialect], asked)
    for row in ended:
        room -= len(row.outcome.encode())
        if room < 0 and entries:
            return entries, 0
        outcome = Outcome.model_validate_json(row.outcome)
        entries.append(SagaEntry(saga=row.id, content_digest=row.content_digest, outcome=outcome))
    return entries, max(room, 0)


async def _events(databases: Databases, wanted: EventFilter, room: int) -> LookupReply:
    began = monotonic()
    now = await clock.read_clock(databases.home)
    since = wanted.since or now - OVERLAP
    known_to_client = unpack(wanted.known)
    most = len(known_to_client) + len(wanted.seen) + _NEW
    if wanted.keys_only:
        most = FINGERPRINTS_LIMIT
    rows: dict[str, _EventRow] = {}
    latest: list[datetime] = []
    for _, database in databases:
        is_home = database is databases.home
        ahead = timedelta(0) if is_home else await _ahead(database, now, began)
        for page in await _rows(database, wanted, since, ahead, is_home=is_home, most=most):
            if len(page) == most:
                latest.append(page[-1].entry.recorded_at)
            for row in page:
                rows.setdefault(row.entry.key, row)
    # If one source has more, all sources are answered only up to the time of its last row, so that no event is missed.
    until = min(latest, default=None)
    new = sorted(
        (
            row
            for key, row in rows.items()
            if key not in wanted.seen
            and not (known_to_client and fingerprint(key) in known_to_client)
            and (until is None or wanted.keys_only or row.entry.recorded_at <= until)
        ),
        key=lambda row: (row.entry.recorded_at, row.entry.key),
    )
    if wanted.keys_only and wanted.as_fingerprints:
        known = new[-FINGERPRINTS_LIMIT:]
        return LookupReply(
            fingerprints=pack(fingerprint(row.entry.key) for row in known),
            fingerprints_since=known[0].entry.recorded_at if len(known) == FINGERPRINTS_LIMIT else None,
            now=now,
        )
    if wanted.keys_only:
        return LookupReply(events=tuple(row.entry for row in new[-LOOKUP_KEYS:]), now=now)
    entries: list[EventEntry] = []
    for batch in _batches(new):
        envelopes = await _envelopes(batch)
        for row in batch:
            text = envelopes.get(row.entry.key, "")
            fields = _fields(text, row.entry.type)
            if fields is None:
                continue  # deleted meanwhile, or of another type
            room -= len(text.encode())
            if room < 0 and entries:
                return LookupReply(events=tuple(entries), has_more=True, now=now)
            entries.append(row.entry.model_copy(update={"envelope": fields}))
    return LookupReply(events=tuple(entries), has_more=until is not None, now=now)


async def _ahead(database: Database, now: datetime, began: float) -> timedelta:
    """Return the minimum time by which a remote database's clock is ahead of home's, which a listener's times refer to.

    The time between the two readings is subtracted. Otherwise it would be counted as part of the difference, and the
    events of that many seconds would be missed.

    Args:
        database: the remote database.
        now: the time by home's clock.
        began: when home's clock was read, by this process's monotonic clock.
    """
    read = await clock.read_clock(database)
    ahead = read - now - timedelta(seconds=monotonic() - began)
    return ahead if abs(ahead) > _NEGLIGIBLE else timedelta(0)


async def _rows(
    database: Database, wanted: EventFilter, since: datetime, ahead: timedelta, *, is_home: bool, most: int
) -> list[list[_EventRow]]:
    """Return the events of a database since a time by home's clock, given how far the database's own clock is ahead.

    Returns:
        From each source at most `most` events: the earliest ones or, if only keys are wanted, the latest ones.
    """
    pages: list[list[_EventRow]] = []
    async with database.reading() as connection:
        if is_home:
            statement = _in_order(_ACCEPTED, saga.c.created_at, wanted, most)
            accepted = await connection.execute(statement, {"since": since, "types": list(wanted.types)})
            pages.append([_event_row(row, database, row.id) for row in accepted])
        for event_type in wanted.types:
            statement = _in_order(_sent(event_type), saga_outbox.c.created_at, wanted, most)
            sent = await connection.execute(statement, {"since": since + ahead})
            pages.append([_event_row(row, database, None, ahead) for row in sent])
    return pages


def _in_order(statement: Any, recorded_at: Any, wanted: EventFilter, most: int) -> Any:
    return statement.order_by(recorded_at.desc() if wanted.keys_only else recorded_at).limit(most)


def _event_row(row: Any, database: Database, saga_id: UUID | None, ahead: timedelta = timedelta(0)) -> _EventRow:
    entry = EventEntry(key=f"{row.type}/{row.event_id}", type=row.type, recorded_at=row.recorded_at - ahead)
    return _EventRow(entry, database, saga_id, row.event_id)


async def _envelopes(rows: Sequence[_EventRow]) -> dict[str, str]:
    """Read the envelopes of events, by their keys."""
    read: dict[str, str] = {}
    for database in {row.database for row in rows}:
        here = [row for row in rows if row.database is database]
        sagas = {row.saga_id: row.entry.key for row in here if row.saga_id is not None}
        sent = {row.event_id: row.entry.key for row in here if row.saga_id is None}
        async with database.reading() as connection:
            if sagas:
                accepted = select(saga.c.id, saga.c.envelope).where(
                    saga.c.id.in_(list(sagas)), saga.c.purged_at.is_(None)
                )
                read |= {sagas[row.id]: row.envelope for row in await connection.execute(accepted)}
            if sent:
                outbox = select(saga_outbox.c.event_id, saga_outbox.c.envelope)
                outbox = outbox.where(saga_outbox.c.event_id.in_(list(sent)))
                read |= {sent[row.event_id]: row.envelope for row in await connection.execute(outbox)}
    return read


def _sent(event_type: str) -> Any:
    """Select outbox rows by event type, which only the envelope has; the caller drops rows that merely mention it."""
    envelope, written = saga_outbox.c.envelope, json.dumps(event_type)
    return select(
        literal(event_type).label("type"), saga_outbox.c.event_id, saga_outbox.c.created_at.label("recorded_at")
    ).where(
        saga_outbox.c.created_at >= bindparam("since", type_=saga_outbox.c.created_at.type),
        # Leave out rows that only forward an event that has started a saga, because they are not new events.
        or_(saga_outbox.c.target.is_(None), saga_outbox.c.target != Target.MISSING.value),
        # Compared as text and not as JSON, because one row that is not JSON would make the query fail for all others.
        or_(*(envelope.contains(f'"type":{space}{written}', autoescape=True) for space in ("", " "))),
    )


def _fields(text: str, event_type: str) -> dict[str, JsonValue] | None:
    """Return an envelope's fields, or None if it is not an envelope of that type."""
    try:
        fields: object = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    named = cast("dict[str, JsonValue]", fields)
    return named if named.get("type") == event_type else None


def _batches(items: Sequence[T]) -> Iterable[list[T]]:
    for first in range(0, len(items), _AT_ONCE):
        yield list(items[first : first + _AT_ONCE])
