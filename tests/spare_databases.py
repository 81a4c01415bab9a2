"""Databases of the test run's PostgreSQL server that are emptied after a test and used again.

Creating a database from a template takes ten times as long as emptying one, and over a thousand tests need one.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.core.database import Database

_MOST_BYTES = 16 * 1024 * 1024
"""Size of a database above which it is dropped. A new one has eight megabytes."""
_SCHEMA = """
SELECT md5(string_agg(line, ',' ORDER BY line)) FROM (
    SELECT 'class ' || oid || ' ' || xmin || ' ' || reltuples FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT 'column ' || attrelid || ' ' || attnum || ' ' || xmin FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT 'constraint ' || oid || ' ' || xmin FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT 'function ' || oid || ' ' || xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'trigger ' || oid || ' ' || xmin FROM pg_trigger
    UNION ALL SELECT 'type ' || oid || ' ' || xmin FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT 'schema ' || oid || ' ' || xmin FROM pg_namespace
    UNION ALL SELECT 'database ' || oid || ' ' || xmin FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'setting ' || setdatabase || ' ' || setrole || ' ' || setconfig::text FROM pg_db_role_setting
    UNION ALL SELECT 'enum ' || oid || ' ' || xmin FROM pg_enum
) AS catalog (line)
"""
"""A digest of everything that a test may have changed about the database other than rows."""
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_TABLES = (
    "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables "
    "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
)
_RESTART_SEQUENCES = "PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence"

_numbers = count(1)


class SpareDatabases:
    """The databases that no test is using at the moment.

    Args:
        address: URL of the server, without a database's name (`postgresql://postgres@/?host=/folder`).
        template: name of the migrated template. A database gets its rows back before another test uses it.
    """

    def __init__(self, address: str, template: str) -> None:
        self._address = address
        self._template = template
        self._spare: list[str] = []
        self._schemas: dict[str, str] = {}
        self._rows: dict[str, list[dict[str, Any]]] | None = None

    def _url(self, name: str) -> str:
        return self._address.replace("/?", f"/{name}?")

    @asynccontextmanager
    async def lent(self) -> AsyncGenerator[str]:
        """Lend the URL of a database with the template's tables and rows."""
        url = await self._take()
        yield url
        await self._take_back(url)

    async def _take(self) -> str:
        if self._spare:
            return self._url(self._spare.pop())
        name = f"house_{os.getpid()}_{next(_numbers)}"
        await create_database(self._address, name, template=self._template)
        async with _connection(self._url(name)) as connection:
            self._schemas[name] = await connection.scalar(text(_SCHEMA))
            if self._rows is None:
                tables = [str(table) for table in await connection.scalars(text(_TABLES))]
                self._rows = {
                    table: [dict(row) for row in (await connection.execute(text(f"SELECT * FROM {table}"))).mappings()]
                    for table in tables
                }
        return self._url(name)

    async def _take_back(self, url: str) -> None:
        """Empty a database, so that another test can use it, or drop it if more than its rows has changed."""
        name = url.split("?", 1)[0].rsplit("/", 1)[-1]
        async with _connection(url) as connection:
            is_reusable = await self._is_as_created(connection, name)
            if is_reusable:
                await self._restore_rows(connection)
        if is_reusable:
            self._spare.append(name)
        else:
            async with _connection(self._url("postgres")) as connection:
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))

    async def _is_as_created(self, connection: AsyncConnection, name: str) -> bool:
        size: int = await connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
        schema = await connection.scalar(text(_SCHEMA))
        return size <= _MOST_BYTES and schema == self._schemas[name] and not await connection.scalar(text(_OTHERS))

    async def _restore_rows(self, connection: AsyncConnection) -> None:
        rows = self._rows or {}
        deletes = "; ".join(f"DELETE FROM {table}" for table in rows)
        # As a replica no foreign key is checked, so the order of the tables does not matter.
        await connection.execute(
            text(f"DO $$ BEGIN SET LOCAL session_replication_role = replica; {deletes}; {_RESTART_SEQUENCES}; END $$")
        )
        for table, kept in rows.items():
            if kept:
                columns = ", ".join(f'"{column}"' for column in kept[0])
                values = ", ".join(f":{column}" for column in kept[0])
                await connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), kept)


async def create_database(address: str, name: str, *, template: str) -> str:
    """Create a database as a copy of another one, and return its URL."""
    async with _connection(address.replace("/?", "/postgres?")) as connection:
        await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return address.replace("/?", f"/{name}?")


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[AsyncConnection]:
    database = Database(url)
    try:
        async with database.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    finally:
        await database.close()
