"""Dead letters: messages that were no events of ours, kept as they came."""

from datetime import UTC, datetime

from sqlalchemy import LargeBinary, cast, func, update

from orchestrator.errors import storable
from orchestrator.store.database import Database
from orchestrator.store.opening import insert_into
from orchestrator.store.schema import saga_dead_letter


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
) -> None:
    """Keep one piece of a message; pieces come in order, and one that comes twice is kept once."""
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
                created_at=datetime.now(UTC),
            )
            await connection.execute(statement.on_conflict_do_nothing())
            return
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
