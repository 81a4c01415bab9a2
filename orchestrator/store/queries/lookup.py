"""Answers from the tables: how sagas ended, and which events went through.

An event goes through when it stands in a saga's row, accepted by an orchestrator, or in an outbox. Rows become visible
in the order of their commits, which is neither that of their ids nor that of their times: so who listens asks for all
since some time before the last look, and says what of it is known.
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

from orchestrator.heard import MOST_HEARD, fingerprint, pack, unpack
from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.lookup import (
    ANSWER_BYTES,
    ASKED_SEEN,
    OVERLAP,
    EventEntry,
    EventFilter,
    Lookup,
    LookupReply,
    SagaEntry,
)
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.saga_ids import OF_SAGAS, ids_as_json
from orchestrator.store.core.schema import saga, saga_outbox
from orchestrator.store.outbox import Target

T = TypeVar("T")

_NEGLIGIBLE = timedelta(seconds=1)
"""A difference of two databases' clocks that the overlap of two looks makes up for."""
_NEW = 5_000
"""Events that the asker has not heard of, and that one look takes from one source at most."""
_AT_ONCE = 50
"""Envelopes that are read at once: there may be much in each."""


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
class _Row:
    """An event's row, without what it says."""

    told: EventEntry
    database: Database
    saga_id: UUID | None
    """None: it is in the outbox."""
    event_id: str


async def answer(databases: Databases, question: Lookup) -> LookupReply:
    """What the tables say now.

    Args:
        databases: home, and those whose outboxes are read, too.
        question: its `seconds` are left to whoever asks again.
    """
    sagas: Sequence[SagaEntry] = ()
    room = ANSWER_BYTES
    if question.sagas:
        sagas, room = await databases.home.read(lambda connection: _sagas(connection, question, ANSWER_BYTES))
    if question.events is None:
        return LookupReply(sagas=tuple(sagas))
    return (await _events(databases, question.events, room)).model_copy(update={"sagas": tuple(sagas)})


async def _sagas(connection: AsyncConnection, question: Lookup, room: int) -> tuple[list[SagaEntry], int]:
    told: list[SagaEntry] = []
    dialect = connection.dialect.name
    asked = {"sagas": ids_as_json(dialect, question.sagas)}
    if question.open_too:
        still_open = await connection.execute(_OPEN[dialect], asked)
        told += [SagaEntry(saga=row.id, content_digest=row.content_digest, outcome=None) for row in still_open]
    ended = await connection.execute(_ENDED[dialect], asked)
    for row in ended:
        room -= len(row.outcome.encode())
        if room < 0 and told:
            return told, 0
        outcome = Outcome.model_validate_json(row.outcome)
        told.append(SagaEntry(saga=row.id, content_digest=row.content_digest, outcome=outcome))
    return told, max(room, 0)


async def _events(databases: Databases, wanted: EventFilter, room: int) -> LookupReply:
    began = monotonic()
    now = await clock.read_clock(databases.home)
    since = wanted.since or now - OVERLAP
    heard = unpack(wanted.heard)
    most = len(heard) + len(wanted.seen) + _NEW
    if wanted.keys_only:
        most = MOST_HEARD
    rows: dict[str, _Row] = {}
    latest: list[datetime] = []
    for _, database in databases:
        is_home = database is databases.home
        ahead = timedelta(0) if is_home else await _ahead(database, now, began)
        for some in await _rows(database, wanted, since, ahead, is_home=is_home, most=most):
            if len(some) == most:
                latest.append(some[-1].told.recorded_at)
            for row in some:
                rows.setdefault(row.told.key, row)
    # Where one source has more, the others are answered up to where it broke off: by time, nothing is passed over.
    until = min(latest, default=None)
    new = sorted(
        (
            row
            for key, row in rows.items()
            if key not in wanted.seen
            and not (heard and fingerprint(key) in heard)
            and (until is None or wanted.keys_only or row.told.recorded_at <= until)
        ),
        key=lambda row: (row.told.recorded_at, row.told.key),
    )
    if wanted.keys_only and wanted.as_fingerprints:
        known = new[-MOST_HEARD:]
        return LookupReply(
            heard=pack(fingerprint(row.told.key) for row in known),
            heard_since=known[0].told.recorded_at if len(known) == MOST_HEARD else None,
            now=now,
        )
    if wanted.keys_only:
        return LookupReply(events=tuple(row.told for row in new[-ASKED_SEEN:]), now=now)
    told: list[EventEntry] = []
    for some in _batches(new):
        envelopes = await _envelopes(some)
        for row in some:
            text = envelopes.get(row.told.key, "")
            fields = _fields(text, row.told.type)
            if fields is None:
                continue  # gone meanwhile, or of another type
            room -= len(text.encode())
            if room < 0 and told:
                return LookupReply(events=tuple(told), has_more=True, now=now)
            told.append(row.told.model_copy(update={"envelope": fields}))
    return LookupReply(events=tuple(told), has_more=until is not None, now=now)


async def _ahead(database: Database, now: datetime, began: float) -> timedelta:
    """By how much another database's clock is ahead of home's at least; a listener keeps the time of home's.

    Time that passed between the two readings would count as ahead, and events of so many seconds would be passed over.

    Args:
        database: the other one.
        now: what home's clock said.
        began: when it was asked, by this process's monotonic clock.
    """
    read = await clock.read_clock(database)
    ahead = read - now - timedelta(seconds=monotonic() - began)
    return ahead if abs(ahead) > _NEGLIGIBLE else timedelta(0)


async def _rows(
    database: Database, wanted: EventFilter, since: datetime, ahead: timedelta, *, is_home: bool, most: int
) -> list[list[_Row]]:
    """Events of a database since a time by home's clock, of which the database's own is so much ahead.

    Returns:
        From each source at most so many, the first ones by time; of keys alone the last ones.
    """
    found: list[list[_Row]] = []
    async with database.reading() as connection:
        if is_home:
            statement = _in_order(_ACCEPTED, saga.c.created_at, wanted, most)
            accepted = await connection.execute(statement, {"since": since, "types": list(wanted.types)})
            found.append([_row(row, database, row.id) for row in accepted])
        for event_type in wanted.types:
            statement = _in_order(_sent(event_type), saga_outbox.c.created_at, wanted, most)
            sent = await connection.execute(statement, {"since": since + ahead})
            found.append([_row(row, database, None, ahead) for row in sent])
    return found


def _in_order(statement: Any, recorded_at: Any, wanted: EventFilter, most: int) -> Any:
    return statement.order_by(recorded_at.desc() if wanted.keys_only else recorded_at).limit(most)


def _row(row: Any, database: Database, saga_id: UUID | None, ahead: timedelta = timedelta(0)) -> _Row:
    told = EventEntry(key=f"{row.type}/{row.event_id}", type=row.type, recorded_at=row.recorded_at - ahead)
    return _Row(told, database, saga_id, row.event_id)


async def _envelopes(rows: Sequence[_Row]) -> dict[str, str]:
    """Envelopes by the keys of their events."""
    read: dict[str, str] = {}
    for database in {row.database for row in rows}:
        here = [row for row in rows if row.database is database]
        sagas = {row.saga_id: row.told.key for row in here if row.saga_id is not None}
        sent = {row.event_id: row.told.key for row in here if row.saga_id is None}
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
    """Rows of the outbox by their event's type, which stands in the envelope alone; some may only mention it."""
    envelope, written = saga_outbox.c.envelope, json.dumps(event_type)
    return select(
        literal(event_type).label("type"), saga_outbox.c.event_id, saga_outbox.c.created_at.label("recorded_at")
    ).where(
        saga_outbox.c.created_at >= bindparam("since", type_=saga_outbox.c.created_at.type),
        # No event of its own: what started a saga, on its way to its other listeners.
        or_(saga_outbox.c.target.is_(None), saga_outbox.c.target != Target.MISSING.value),
        # No JSON for the database: one row that is none would hide all others.
        or_(*(envelope.contains(f'"type":{space}{written}', autoescape=True) for space in ("", " "))),
    )


def _fields(text: str, event_type: str) -> dict[str, JsonValue] | None:
    """An envelope's fields, if it is one of that type."""
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
