"""A database: connections and transactions.

PostgreSQL through asyncpg at READ COMMITTED; SQLite through aiosqlite with `BEGIN IMMEDIATE` and a queue of its own,
because fifty writers that poll for SQLite's one lock starve each other (one of them waited 4.24 s of 4.3 s).
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

_FIRST_ANSWER = 10  # seconds
POOL_SIZE = 20
"""Connections that a process keeps. Four processes stay below the hundred that PostgreSQL takes by itself."""

TRIES = 5
"""Of a transaction whose connection was lost, or that PostgreSQL gave up for another's sake."""
_RETRIED_IN_PLACE = frozenset({"40P01", "40001"})
_PING = text("SELECT 1")
FILLED = "orchestrator_outbox_filled"
"""On a connection whose transaction writes an event that is to be sent: a relay is woken when it has committed."""
_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()


class Database:
    """One database that holds sagas, steps, or both.

    Args:
        url: `sqlite:///path/to/file.db` or `postgresql://user:password@host/name`; the driver is filled in.
        pool_size: connections, opened as they are needed and kept. Who needs one more waits for one to come back.
        setting: the environment variable that it comes from, for messages.

    Raises:
        Unreachable: the URL is not of that form.
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
            "Make a Database (or an EventBus, which has its own) in each event loop, and after a fork.",
        )
        self.when_outbox_filled: set[Callable[[], None]] = set()
        """Told after a transaction of this process has put events in the outbox."""

    @property
    def shown(self) -> str:
        """The address as a person would type it, without a password."""
        return self._address.shown

    async def check(self) -> None:
        """Make sure that it answers, and that the engine can keep its promises on it.

        Raises:
            Unreachable: it does not, or cannot be used; the message says why and what to do.
        """
        try:
            if self.dialect == "sqlite" and self.url.database:
                check_sqlite_file(self.url.database, self.shown, self._setting)
            self._loop.check()
            async with asyncio.timeout(self._patience), self.engine.connect() as connection:
                if self.dialect == "postgresql":
                    await check_postgresql(connection, self.shown, self._setting)
                    return
                # As a reader, because another process may be changing its tables for as long as it needs.
                reading = await connection.execution_options(orchestrator_reads=True)
                await reading.execute(text("SELECT count(*) FROM sqlite_master"))
        except (SQLAlchemyError, OSError, TimeoutError) as fault:
            raise self.unreachable(fault) from fault

    @property
    def _patience(self) -> float | None:
        """Seconds that a first answer may take; a URL may allow more for connecting, or any time."""
        if self._address.postgres is None:
            return _FIRST_ANSWER
        connecting = self._address.postgres.patience
        return None if connecting is None else connecting + _FIRST_ANSWER

    def unreachable(self, fault: BaseException) -> Unreachable:
        """What to tell a person about an error of this database: the message says what is wrong and what to do."""
        return explain(fault, self.shown, self._setting)

    @asynccontextmanager
    async def transaction(self, *, is_repeated: bool = False) -> AsyncGenerator[AsyncConnection]:
        """One transaction that may write; committed at the end of the block, rolled back if it raises.

        Args:
            is_repeated: after a lost connection, by the caller; then the connection is not tried out first.
        """
        async with self._turn(), self._connected() as connection:
            if not is_repeated:
                await self._revive(connection)
            async with connection.begin():
                yield connection
            info = connection.sync_connection.info if connection.sync_connection else {}
            if info.pop(FILLED, None):
                self._tell_of_outbox()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """A connection that only reads, and waits for no writer."""
        async with self._connected() as connection:
            if self.dialect == "sqlite":
                connection = await connection.execution_options(orchestrator_reads=True)
            await self._revive(connection)
            yield connection

    async def read(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Run work that only reads, again with another connection if this one was lost: it asks no connection first."""
        if self.dialect == "postgresql":
            return await self.in_transaction(work)
        async with self.reading() as connection:
            return await work(connection)

    @property
    def has_waiting_writers(self) -> bool:
        """Whether somebody in this process waits for its turn to write (SQLite)."""
        lock = _queues.get(asyncio.get_running_loop(), {}).get(self._file)
        return bool(lock is not None and getattr(lock, "_waiters", None))

    async def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[R]], *, tries: int = TRIES) -> R:
        """Run work in one transaction; again after a deadlock, a failed serialisation, a lost connection.

        With the connection the answer to a commit may be lost: work must be safe to repeat after it committed, and
        answer as it did then. A few times: an operation may have lost a connection of its own to somewhere else.

        Args:
            work: is given the connection.
            tries: 1 for work that is not to be repeated.
        """
        for attempt in range(1, tries + 1):
            try:
                return await self._attempted(work)
            except DBAPIError as fault:
                # One lost connection marks all that were pooled before it: the next try gets a new one.
                # A server that refuses writes would most likely refuse the next one, too.
                is_lost = fault.connection_invalidated and condition_of(fault) is not DatabaseCondition.READ_ONLY
                again = is_lost or sqlstate(fault) in _RETRIED_IN_PLACE
                if attempt == tries or not again:
                    raise
                await asyncio.sleep(uniform(0.005, 0.02) * attempt)  # noqa: S311
        raise AssertionError("unreachable")

    async def _attempted(self, work: Callable[[AsyncConnection], Awaitable[R]]) -> R:
        """Work in one transaction: as `transaction` does it, in fewer turns of the event loop: each step pays them."""
        if self.dialect == "sqlite":
            async with self.transaction(is_repeated=True) as connection:
                return await work(connection)
        connection = await self._connect()
        try:
            sync_connection_of(connection).begin()  # says nothing to PostgreSQL until the first statement
            answer = await work(connection)
            await connection.run_sync(self._commit_and_close)
        except BaseException:
            driven = connection.sync_connection
            if driven is not None and not (driven.closed or driven.invalidated):
                driven.info.pop(FILLED, None)
            # Whoever is cancelled here has still to give it back.
            closing = asyncio.create_task(self._give_back(connection))
            await asyncio.shield(closing)
            raise
        return answer

    def _tell_of_outbox(self) -> None:
        for tell in self.when_outbox_filled:
            tell()

    async def close(self) -> None:
        """Close every connection; those that are in use, or are opened later, when they come back.

        Raises:
            UsageError: another event loop, which still runs, has them open.
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
                f"{WAIT_FOR_CONNECTION} seconds. Look there for statements that wait; else give the process more with "
                "ORCHESTRATOR_POOL_SIZE (of all processes together fewer than PostgreSQL's max_connections)."
            ) from fault

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[AsyncConnection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            # Whoever is cancelled here has still to give it back.
            closing = asyncio.create_task(self._give_back(connection))
            await asyncio.shield(closing)

    def _commit_and_close(self, connection: Connection) -> None:
        has_filled_outbox = connection.info.pop(FILLED, False)
        connection.commit()
        if has_filled_outbox:
            self._tell_of_outbox()
        if self._is_closed or leaves_state(connection):
            connection.invalidate()  # as `_give_back`
        connection.close()

    async def _give_back(self, connection: AsyncConnection) -> None:
        driven = connection.sync_connection
        is_usable = driven is not None and not (driven.closed or driven.invalidated)
        if driven is not None and is_usable and (self._is_closed or leaves_state(driven)):
            # The pool would keep it: after the pool was closed, or for a transaction that must not meet this session.
            await connection.invalidate()
        await connection.close()

    async def _revive(self, connection: AsyncConnection) -> None:
        """Exchange a connection that was lost in the pool. Work that is repeated needs no such question."""
        if self.dialect == "sqlite":
            return
        try:
            await connection.execute(_PING)
        except DBAPIError as fault:
            if not fault.connection_invalidated:
                raise
        await connection.rollback()

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        if self.dialect == "postgresql":
            yield
            return
        locks = _queues.setdefault(asyncio.get_running_loop(), {})
        async with locks.setdefault(self._file, asyncio.Lock()):
            yield
