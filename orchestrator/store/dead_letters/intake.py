"""Storing dead letters: inbound messages that could not be read or routed, unchanged."""

import json
import re
from collections.abc import Mapping
from typing import cast as cast_type

from sqlalchemy import LargeBinary, bindparam, cast, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import storable
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


async def name_letters(database: Database, *, limit: int = 500) -> int:
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


async def keep_letter(
    database: Database,
    *,
    door: str,
    workflow_id: str,
    run_id: str,
    position: int,
    code: str,
    reason: str,
    raw: bytes,
) -> int:
    """Store a whole message; a message that comes twice from the same position is stored once.

    Returns:
        The letter's number.
    """

    async def keep(connection: AsyncConnection) -> int:
        return await insert_letter(
            connection,
            door=door,
            workflow_id=workflow_id,
            run_id=run_id,
            position=position,
            code=code,
            reason=reason,
            raw=raw,
        )

    return await database.in_transaction(keep)


async def insert_letter(
    connection: AsyncConnection,
    *,
    door: str,
    workflow_id: str,
    run_id: str,
    position: int,
    code: str,
    reason: str,
    raw: bytes,
) -> int:
    """Store a whole message in the caller's own transaction, like `keep_letter`."""
    where = {"origin_workflow_id": workflow_id, "origin_run_id": run_id, "origin_position": position}
    statement = insert_into(connection, saga_dead_letter).values(
        **where,
        door=storable(door)[:200],
        raw=raw,
        size=len(raw),
        code=code,
        reason=storable(reason),
        created_at=clock.now(),
        event_id=event_id_of(raw),
    )
    await connection.execute(statement.on_conflict_do_nothing())
    return await _number_of(connection, where)


async def keep_piece(
    database: Database,
    *,
    door: str,
    workflow_id: str,
    run_id: str,
    position: int,
    code: str,
    reason: str,
    size: int,
    offset: int,
    raw: bytes,
) -> int:
    """Store one piece of a message. Pieces come in order, and a piece that comes twice is stored once.

    Returns:
        The letter's number.
    """
    where = {"origin_workflow_id": workflow_id, "origin_run_id": run_id, "origin_position": position}
    async with database.transaction() as connection:
        if offset == 0:
            statement = insert_into(connection, saga_dead_letter).values(
                **where,
                door=storable(door)[:200],
                raw=raw,
                size=size,
                code=code,
                reason=storable(reason),
                created_at=clock.now(),
                event_id=event_id_of(raw),
            )
            await connection.execute(statement.on_conflict_do_nothing())
            return await _number_of(connection, where)
        table = saga_dead_letter.c
        await connection.execute(
            update(saga_dead_letter)
            .where(
                table.origin_workflow_id == workflow_id,
                table.origin_run_id == run_id,
                table.origin_position == position,
                func.length(table.raw) == offset,
            )
            .values(raw=cast(table.raw.op("||")(raw), LargeBinary))  # without the cast, SQLite stores text
        )
        return await _number_of(connection, where)


async def _number_of(connection: AsyncConnection, where: Mapping[str, object]) -> int:
    table = saga_dead_letter.c
    known = select(table.id).where(*(table[name] == value for name, value in where.items()))
    return int((await connection.execute(known)).scalar_one())
