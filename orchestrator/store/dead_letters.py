"""Dead letters: messages that were no events of ours, kept as they came."""

from collections.abc import Mapping

from sqlalchemy import LargeBinary, cast, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import storable
from orchestrator.store import clock
from orchestrator.store.database import Database
from orchestrator.store.opening import insert_into
from orchestrator.store.schema import saga_dead_letter

EDITED_DOOR = "edited"
"""Of a letter that is an edited copy of another one."""
_COPY_OF = "dead-letter/"


def edited_origin(number: int) -> str:
    """What stands where the execution's id would, of an edited copy."""
    return f"{_COPY_OF}{number}"


def edited_from(origin: str) -> int | None:
    """Number of the letter that was edited."""
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
    """Keep a whole message; one that comes twice from the same place is kept once.

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
    """`keep_letter` in the caller's own transaction."""
    where = {"origin_workflow_id": workflow_id, "origin_run_id": run_id, "origin_position": position}
    statement = insert_into(connection, saga_dead_letter).values(
        **where,
        door=storable(door)[:200],
        raw=raw,
        size=len(raw),
        code=code,
        reason=storable(reason),
        created_at=clock.now(),
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
    """Keep one piece of a message; pieces come in order, and one that comes twice is kept once.

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
            .values(raw=cast(table.raw.op("||")(raw), LargeBinary))  # SQLite makes a text of it otherwise
        )
        return await _number_of(connection, where)


async def _number_of(connection: AsyncConnection, where: Mapping[str, object]) -> int:
    table = saga_dead_letter.c
    known = select(table.id).where(*(table[name] == value for name, value in where.items()))
    return int((await connection.execute(known)).scalar_one())
