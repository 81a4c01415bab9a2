"""Storing dead letters: inbound messages that could not be read or routed, unchanged."""

import json
import re
from typing import cast as cast_type

from sqlalchemy import ColumnElement, LargeBinary, and_, bindparam, cast, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import storable
from orchestrator.protocol.messages.dead_letters import DeadLetter, DeadLetterPiece
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_dead_letter
from orchestrator.store.saga.opening import insert_into

EDITED_SOURCE = "edited"
"""The source of a dead letter that is an edited copy of another one."""
_COPY_OF = "dead-letter/"
PEEK = 64 * 1024
"""How many bytes of a message are looked at if it is not read completely."""
ID_LENGTH = 128
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,128})"')
_NAME = (
    update(saga_dead_letter)
    .where(saga_dead_letter.c.id == bindparam("letter"), saga_dead_letter.c.event_id.is_(None))
    .values(event_id=bindparam("named"))
)


def event_id_of(raw: bytes) -> str:
    """Return the event id that a message contains; empty if there is none, or if no event can have such an id.

    Args:
        raw: the message, or its beginning, in which the first id counts.
    """
    try:
        message: object = json.loads(raw)
    except (ValueError, RecursionError):
        match = _ID.search(raw)
        named: object = match.group(1).decode("utf-8", "replace") if match else ""
    else:
        named = cast_type("dict[str, object]", message).get("id") if isinstance(message, dict) else ""
    is_id = isinstance(named, str) and len(named) <= ID_LENGTH
    return storable(named) if isinstance(named, str) and is_id else ""


async def fill_in_event_ids(database: Database, *, limit: int = 500) -> int:
    """Fill in the event ids of dead letters that an older version stored, and return how many were looked at."""
    table = saga_dead_letter.c
    unnamed = (
        select(table.id, func.substr(table.raw, 1, PEEK, type_=LargeBinary).label("raw"))
        .where(table.event_id.is_(None))
        .order_by(table.id)
        .limit(limit)
    )
    async with database.reading() as connection:
        named = [{"letter": row.id, "named": event_id_of(row.raw)} for row in await connection.execute(unnamed)]
    if named:
        async with database.transaction() as connection:
            await connection.execute(_NAME, named)
    return len(named)


def edited_origin(number: int) -> str:
    """Return what an edited copy records instead of an execution's id."""
    return f"{_COPY_OF}{number}"


def edited_from(origin: str) -> int | None:
    """Return the number of the dead letter of which this is an edited copy; None if it is not one."""
    number = origin.removeprefix(_COPY_OF)
    return int(number) if number != origin and number.isdecimal() else None


async def store_dead_letter(database: Database, letter: DeadLetter) -> int:
    """Store a dead letter, and return its number; one that comes twice is stored once."""
    return await database.in_transaction(lambda connection: insert_dead_letter(connection, letter))


async def insert_dead_letter(connection: AsyncConnection, letter: DeadLetter, *, size: int | None = None) -> int:
    """Store a dead letter in the caller's own transaction, and return its number.

    Args:
        connection: in the caller's transaction.
        letter: the dead letter. It completes one from the same origin of which only the first pieces are stored.
        size: the size of the whole message, if `letter` is only its first piece.
    """
    raw = letter.message.raw
    statement = insert_into(connection, saga_dead_letter).values(
        **_origin(letter),
        source=storable(letter.message.source)[:200],
        raw=raw,
        size=len(raw) if size is None else size,
        code=letter.code,
        reason=storable(letter.reason),
        created_at=clock.now(),
        event_id=event_id_of(raw),
    )
    stored, new = saga_dead_letter.c, statement.excluded
    has_more = and_(stored.size == new.size, func.length(stored.raw) < func.length(new.raw))
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(_origin(letter)), set_={"raw": new.raw, "event_id": new.event_id}, where=has_more
        )
    )
    return await _number_of(connection, letter)


async def store_piece(database: Database, piece: DeadLetterPiece, *, workflow_id: str, run_id: str) -> int:
    """Store one piece of a dead letter. Pieces come in order, and a piece that comes twice is stored once.

    Returns:
        The dead letter's number.
    """
    letter = piece.of_run(workflow_id, run_id)
    async with database.transaction() as connection:
        if piece.offset == 0:
            return await insert_dead_letter(connection, letter, size=piece.size)
        raw = saga_dead_letter.c.raw
        await connection.execute(
            update(saga_dead_letter)
            .where(*_is_from(letter), func.length(raw) == piece.offset)
            .values(raw=cast(raw.op("||")(letter.message.raw), LargeBinary))  # without the cast, SQLite stores text
        )
        return await _number_of(connection, letter)


def _origin(letter: DeadLetter) -> dict[str, object]:
    """Return the columns that identify a dead letter."""
    return {
        "origin_workflow_id": letter.workflow_id,
        "origin_run_id": letter.run_id,
        "origin_position": letter.message.position,
    }


def _is_from(letter: DeadLetter) -> list[ColumnElement[bool]]:
    return [saga_dead_letter.c[name] == value for name, value in _origin(letter).items()]


async def _number_of(connection: AsyncConnection, letter: DeadLetter) -> int:
    return int((await connection.execute(select(saga_dead_letter.c.id).where(*_is_from(letter)))).scalar_one())
