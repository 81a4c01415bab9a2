"""A database with its connection pool and its transactions.

PostgreSQL is used through asyncpg at READ COMMITTED. SQLite is used through aiosqlite with `BEGIN IMMEDIATE`, and the
writers of a process queue for it, because fifty writers that poll for SQLite's only write lock starve each other (in a
test of 4.3 s, one of them waited 4.24 s).
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import uniform
from typing import TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import Unreachable
from orchestrator.store.connections.errors import DatabaseCondition, NoConnectionLeft, condition_of, explain, sqlstate
from orchestrator.store.connections.event_loop import LoopBinding
from orchestrator.store.connections.settings import WAIT_FOR_CONNECTION, create_engine
from orchestrator.store.connections.startup_check import check_postgresql, check_sqlite_file
from orchestrator.store.connections.url import Dialect, parse_database_url
from orchestrator.store.core.misuse_guard import sync_connection_of
from orchestrator.store.core.session_state import leaves_state

R = TypeVar("R")

_FIRST_ANSWER_TIMEOUT = 10
"""Seconds that the first answer may take, in addition to the time for connecting."""
POOL_SIZE = 20
"""Connections per process. Four processes stay below PostgreSQL's default of 100 connections."""

TRIES = 5
"""How often a transaction is attempted that loses its connection or that PostgreSQL aborts in favour of another one."""
_RETRIED_SQLSTATES = frozenset({"40P01", "40001"})
"""Deadlock and failed serialisation."""
_PING = text("SELECT 1")
FILLED = "orchestrator_outbox_filled"
"""The key in a connection's info that marks a transaction that writes to the outbox; its commit wakes the relay."""
_write_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()
"""The write lock of each SQLite file, by event loop and path."""


class Database:
    """One database that holds sagas, steps, or both.

    Args:
        url: `sqlite:///path/to/file.db` or `postgresql://user:password@host/name`; the driver is filled in.
        pool_size: the number of connections. They are opened when needed and kept; when all are in use, a transaction
            waits until one is returned.
        setting: the environment variable that the URL comes from, for messages.

    Raises:
        Unreachable: the URL does not have that form.
    """

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, setting: str = "ORCHESTRATOR_DATABASE_URL") -> None:
        self._setting = setting
        self._address = parse_database_url(url, setting)
        self.url = self._address.url
        self.dialect: Dialect = self._address.dialect
        self.pool_size = pool_size
        self._file = os.path.abspath(self.url.database or ":memory:")
        self.engine = create_engine(self._address, pool_size)
        self._is_closed = False
        self._loop = LoopBinding(
            f"the connection pool of {self._address.shown}",
            "Create a Database (or an EventBus, which has its own) in each event loop, and after a fork.",
        )
        self.when_outbox_filled: set[Callable[[], None]] = set()
        """Callbacks that run after a transaction of this process has committed events to the outbox."""

    @property
    def shown(self) -> str:
        """The address in the form in which it is configured, without the password."""
        return self._address.shown

    async def check(self) -> None:
        """Verify that the database answers, and that the engine can keep its promises on it.

        Raises:
            Unreachable: the database does not answer or cannot be used; the message says why and what to do.
        """
        try:
            if self.dialect == "sqlite" and self.url.database:
                check_sqlite_file(self.url.database, self.shown, self._setting)
            self._loop.check()
            async with asyncio.timeout(self._patience), self.engine.connect() as connection:
                if self.dialect == "postgresql":
                    await check_postgresql(connection, self.shown, self._setting)
                    return
                # As a reader, because another process may hold the write lock for the whole length of a migration.
                reading = await connection.execution_options(orchestrator_reads=True)
                await reading.execute(text("SELECT count(*) FROM sqlite_master"))
        except (SQLAlchemyError, OSError, TimeoutError) as fault:
            raise self.unreachable(fault) from fault

    @property
    def _patience(self) -> float | None:
        """The seconds that the first answer may take; None if the URL sets no limit for connecting."""
        if self._address.postgres is None:
            return _FIRST_ANSWER_TIMEOUT
        connecting = self._address.postgres.patience
        return None if connecting is None else connecting + _FIRST_ANSWER_TIMEOUT

    def unreachable(self, fault: BaseException) -> Unreachable:
        """Convert an error of this database into one whose message says what is wrong and what to do."""
        return explain(fault, self.shown, self._setting)

    @asynccontextmanager
    async def transaction(self, *, is_repeated: bool = False) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction that may write; commit it at the end of the block, or roll it back if the block raises.

        Args:
            is_repeated: whether the caller repeats the work after a lost connection; if so, the connection is not
                tested first.
        """
        async with self._write_lock(), self._connected() as connection:
            if not is_repeated:
                await self._revive(connection)
            async with connection.begin():
                yield connection
            info = connection.sync_connection.info if connection.sync_connection else {}
            if info.pop(FILLED, None):
                self._notify_outbox_filled()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """Open a connection that only reads and does not wait for writers."""
        async with self._connected() as connection:
            if self.dialect == "sqlite":
                connection = await connection.execution_options(orchestrator_reads=True)
            await self._revive(connection)
            yield connection

    async def read(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run work that only reads; if the connection is lost, repeat it on another one instead of testing it first."""
        if self.dialect == "postgresql":
            return await self.in_transaction(work)
        async with self.reading() as connection:
            return await work(connection)

    @property
    def has_waiting_writers(self) -> bool:
        """Whether a transaction in this process is waiting for the SQLite file's write lock."""
        lock = _write_locks.get(asyncio.get_running_loop(), {}).get(self._file)
        return bool(lock is not None and getattr(lock, "_waiters", None))

    async def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[R]], *, tries: int = TRIES) -> R:
        """Run work in one transaction; repeat it after a deadlock, a failed serialisation or a lost connection.

        A lost connection may also lose the answer to a commit, so the work must be safe to repeat after it was
        committed, and return the same result. The number of attempts is limited, because the lost connection may be one
        that the operation itself opened to another server.

        Args:
            work: a function that gets the connection.
            tries: how often to attempt the work; 1 if it must not be repeated.
        """
        for attempt in range(1, tries + 1):
            try:
                return await self._attempt(work)
            except DBAPIError as fault:
                # After a lost connection the pool discards all older ones, so the next attempt gets a new one. After
                # READ_ONLY there is no next attempt, because the server would most likely refuse it too.
                is_lost = fault.connection_invalidated and condition_of(fault) is not DatabaseCondition.READ_ONLY
                is_retried = is_lost or sqlstate(fault) in _RETRIED_SQLSTATES
                if attempt == tries or not is_retried:
                    raise
                await asyncio.sleep(uniform(0.005, 0.02) * attempt)  # noqa: S311
        raise AssertionError("unreachable")

    async def _attempt(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run work in one transaction, as `transaction` does, but faster, because every step pays for it."""
        if self.dialect == "sqlite":
            async with self.transaction(is_repeated=True) as connection:
                return await work(connection)
        connection = await self._connect()
        try:
            sync_connection_of(connection).begin()  # sends nothing to PostgreSQL before the first statement
            answer = await work(connection)
            await connection.run_sync(self._commit_and_close)
        except BaseException:
            driven = connection.sync_connection
            if driven is not None and not (driven.closed or driven.invalidated):
                driven.info.pop(FILLED, None)
            # Shielded, because the connection must be returned to the pool even if this task is cancelled here.
            closing = asyncio.create_task(self._return_to_pool(connection))
            await asyncio.shield(closing)
            raise
        return answer

    def _notify_outbox_filled(self) -> None:
        for notify in self.when_outbox_filled:
            notify()

    async def close(self) -> None:
        """Close every connection; one that is in use or opened later is closed when it returns to the pool.

        Raises:
            UsageError: the connections belong to another event loop that is still running.
        """
        if not self._loop.is_over:
            self._loop.check()
        self._is_closed = True
        await self.engine.dispose(close=not self._loop.is_over)  # a parent process still uses its sockets

    async def _connect(self) -> AsyncConnection:
        self._loop.check()
        try:
            return await self.engine.connect()
        except PoolTimeout as fault:
            raise NoConnectionLeft(
                f"All {self.pool_size} connections of this process to {self.shown} were in use for "
                f"{WAIT_FOR_CONNECTION} seconds. Look in the database for statements that wait; if there are none, "
                "raise ORCHESTRATOR_POOL_SIZE (all processes together must stay below PostgreSQL's max_connections)."
            ) from fault

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[AsyncConnection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            # Shielded, because the connection must be returned to the pool even if this task is cancelled here.
            closing = asyncio.create_task(self._return_to_pool(connection))
            await asyncio.shield(closing)

    def _commit_and_close(self, connection: Connection) -> None:
        has_filled_outbox = connection.info.pop(FILLED, False)
        connection.commit()
        if has_filled_outbox:
            self._notify_outbox_filled()
        if self._is_closed or leaves_state(connection):
            connection.invalidate()  # as in `_return_to_pool`
        connection.close()

    async def _return_to_pool(self, connection: AsyncConnection) -> None:
        driven = connection.sync_connection
        is_usable = driven is not None and not (driven.closed or driven.invalidated)
        if driven is not None and is_usable and (self._is_closed or leaves_state(driven)):
            # Otherwise the pool would keep it although the pool is closed, or reuse a session whose state was changed.
            await connection.invalidate()
        await connection.close()

    async def _revive(self, connection: AsyncConnection) -> None:
        """Test a pooled connection and replace it if it was lost. Work that is repeated does not need this test."""
        if self.dialect == "sqlite":
            return
        try:
            await connection.execute(_PING)
        except DBAPIError as fault:
            if not fault.connection_invalidated:
                raise
        await connection.rollback()

    @asynccontextmanager
    async def _write_lock(self) -> AsyncGenerator[None]:
        if self.dialect == "postgresql":
            yield
            return
        locks = _write_locks.setdefault(asyncio.get_running_loop(), {})
        async with locks.setdefault(self._file, asyncio.Lock()):
            yield
