"""A `Database` that this process has closed leaves no connection open."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.core.database import Database


async def test_connections_returned_to_a_closed_database_are_closed(
    database: Database,
) -> None:
    async with database.reading() as connection:
        in_use: Any = (await connection.get_raw_connection()).driver_connection
        await database.close()
        await connection.execute(text("SELECT 1"))
    async with database.reading() as connection:
        later: Any = (await connection.get_raw_connection()).driver_connection
        await connection.execute(text("SELECT 1"))
    committing: list[Any] = []

    async def work(connection: AsyncConnection) -> None:
        committing.append((await connection.get_raw_connection()).driver_connection)
        await connection.execute(text("SELECT 1"))

    await database.in_transaction(work)
    for driver in (in_use, later, *committing):
        assert driver.is_closed() if database.dialect == "postgresql" else driver._connection is None
