"""A database: connections, transactions, and what keeps an author from ending a step's transaction.

PostgreSQL through asyncpg at READ COMMITTED; SQLite through aiosqlite with `BEGIN IMMEDIATE` and a queue of its own,
because fifty writers that poll for SQLite's one lock starve each other (one of them waited 4.24 s of 4.3 s).
"""

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from pathlib import Path
from random import uniform
from typing import Any, Literal, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from orchestrator.errors import TransactionMisuse, Unreachable
from orchestrator.store.sqlite import connect_steadily
from orchestrator.transaction import FLUSHING

R = TypeVar("R")
Dialect = Literal["postgresql", "sqlite"]
Guarded = Literal["operation", "query"]

POOL_SIZE = 20
"""Connections that a process keeps. Four processes stay below the hundred that PostgreSQL takes by itself."""

_WAIT_FOR_CONNECTION = 10  # seconds
TRIES = 5
"""Of a transaction whose connection was lost, or that PostgreSQL gave up for another's sake."""
_RETRIED_IN_PLACE = frozenset({"40P01", "40001"})
_PING = text("SELECT 1")
FILLED = "orchestrator_outbox_filled"
"""On a connection whose transaction writes an event that is to be sent: a relay is woken when it has committed."""
_GUARD = "orchestrator_guard"
_REFUSED = "orchestrator_refused"
_SET = "orchestrator_set"
_COMMENTS = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*"
_ENDS_TRANSACTION = re.compile(
    _COMMENTS + r"(?:(?:commit|end|abort|begin|start\s+transaction|prepare\s+transaction|rollback(?!\s+to))\b"
    r"|(?:insert|update)\s+or\s+rollback\b)",
    re.IGNORECASE | re.DOTALL,
)
_WRITES = re.compile(
    _COMMENTS + r"(?:(?:insert|update|delete|merge|truncate|create|alter|drop|replace)\b"
    r"|with\b.*\b(?:insert\s+into|update|delete\s+from|merge\s+into)\b)",
    re.IGNORECASE | re.DOTALL,
)

_SETS = re.compile(r"\A" + _COMMENTS + r"(?:set|reset)\b|\bset_config\s*\(", re.IGNORECASE | re.DOTALL)

_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()


class NoConnectionLeft(PoolTimeout, Unreachable):
    """All connections of the pool were in use for too long."""


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
        self.url = _with_driver(url, setting)
        self.dialect: Dialect = "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"
        self.pool_size = pool_size
        self._file = os.path.abspath(self.url.database or ":memory:")
        self.engine = _engine(self.url, self.dialect, pool_size)
        self._is_closed = False
        self.when_outbox_filled: set[Callable[[], None]] = set()
        """Told after a transaction of this process has put events in the outbox."""

    @property
    def shown(self) -> str:
        """The address as a person would type it, without a password."""
        return self.url.set(drivername=self.url.get_backend_name()).render_as_string(hide_password=True)

    async def check(self) -> None:
        """Make sure that it answers.

        Raises:
            Unreachable: it does not; the message says where and what to do.
        """
        if self.dialect == "sqlite" and self.url.database:
            try:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as fault:
                raise self.unreachable(fault) from fault
        try:
            async with asyncio.timeout(10), self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError, TimeoutError) as fault:
            raise self.unreachable(fault) from fault

    def unreachable(self, fault: BaseException) -> Unreachable:
        """What to tell a person when a connection failed."""
        cause = getattr(fault, "orig", None) or fault
        first = (str(cause).splitlines() or [""])[0] or type(cause).__name__
        return Unreachable(
            f"The database at {self.shown} cannot be reached ({first}). "
            f"Start it, or set {self._setting} to the right one."
        )

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
                again = fault.connection_invalidated or sqlstate(fault) in _RETRIED_IN_PLACE
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
            _driven(connection).begin()  # says nothing to PostgreSQL until the first statement
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
        """Close every connection; those that are in use, or are opened later, when they come back."""
        self._is_closed = True
        await self.engine.dispose()

    async def _connect(self) -> AsyncConnection:
        try:
            return await self.engine.connect()
        except PoolTimeout as fault:
            raise NoConnectionLeft(
                f"All {self.pool_size} connections of this process to {self.shown} were in use for "
                f"{_WAIT_FOR_CONNECTION} seconds. Look there for statements that wait; else give the process more with "
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
        if self._is_closed:
            connection.invalidate()  # as `_give_back`
        connection.close()

    async def _give_back(self, connection: AsyncConnection) -> None:
        if self._is_closed and not connection.closed:
            await connection.invalidate()  # a pool would keep it, and nobody closes that any more
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


@asynccontextmanager
async def guarded(connection: AsyncConnection, what: Guarded) -> AsyncGenerator[None]:
    """While an author's code runs: the transaction cannot be ended, and a query cannot write.

    Raises:
        TransactionMisuse: it was tried, even if the author's code caught the error.
    """
    # Asked for once: a connection that was lost in between has none any more.
    info = connection.sync_connection.info if connection.sync_connection else {}
    info[_GUARD] = what
    try:
        yield
    finally:
        info.pop(_GUARD, None)
        refused: str | None = info.pop(_REFUSED, None)
        if refused is not None:
            # SQLAlchemy takes the transaction for ended now, and would give the connection back with it still open.
            await connection.invalidate()
            raise TransactionMisuse(refused)


@contextmanager
def untouched(connection: AsyncConnection) -> Generator[Callable[[], bool]]:
    """Tells whether what runs in the block leaves connection and transaction as they were (PostgreSQL).

    Yields:
        What tells it.
    """
    driven = _driven(connection)
    options = driven.get_execution_options()
    driven.info.pop(_SET, None)

    def are_as_they_were() -> bool:
        was_set = driven.info.pop(_SET, False)
        driver: Any = driven.connection.driver_connection
        return not was_set and driven.get_execution_options() == options and bool(driver.is_in_transaction())

    yield are_as_they_were


def _driven(connection: AsyncConnection) -> Connection:
    driven = connection.sync_connection
    assert driven is not None  # it was started
    return driven


def sqlstate(fault: DBAPIError) -> str | None:
    """PostgreSQL's five-character code of an error, if it has one."""
    return getattr(fault.orig, "sqlstate", None)


def _with_driver(url: str, setting: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as fault:
        raise Unreachable(
            f"{setting} is no database URL; the form is sqlite:///file.db or postgresql://user:password@host/name"
        ) from fault
    match parsed.get_backend_name():
        case "sqlite":
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+asyncpg")
        case other:
            raise Unreachable(f"{setting} names {other}; PostgreSQL and SQLite are supported")


def _engine(url: URL, dialect: Dialect, pool_size: int) -> AsyncEngine:
    options: dict[str, Any] = {
        "hide_parameters": True,
        # What goes over a pool's size is closed when it comes back: under load one was opened for every other saga.
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": _WAIT_FOR_CONNECTION,
        # The last one used is the next: it has its statements prepared, and at low load a few do all the work.
        "pool_use_lifo": True,
    }
    if dialect == "postgresql":
        options["isolation_level"] = "READ COMMITTED"
        options["connect_args"] = {
            "timeout": 10,
            "server_settings": {
                # A worker that is stopped inside a step lets go of its locks, and its late commit fails.
                "idle_in_transaction_session_timeout": "10s",
                "lock_timeout": "10s",
                "statement_timeout": "20s",
                "tcp_keepalives_idle": "10",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
                "application_name": "orchestrator",
            },
        }
    else:
        options["connect_args"] = {"async_creator_fn": connect_steadily}
    engine = create_async_engine(url, **options)
    if dialect == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    event.listen(engine.sync_engine, "commit", _refuse_commit)
    event.listen(engine.sync_engine, "rollback", _refuse_rollback)
    event.listen(engine.sync_engine, "before_cursor_execute", _refuse_statement)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, in `_begin_sqlite`
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("orchestrator_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _refuse_commit(connection: Connection) -> None:
    if _GUARD in connection.info:
        _refuse(connection, "an operation may not commit; the engine does, together with the step's record")


def _refuse_rollback(connection: Connection) -> None:
    if connection.invalidated or FLUSHING in connection.info:
        return  # SQLAlchemy's own, after an error that its caller is about to hear
    if _GUARD in connection.info:
        _refuse(connection, "an operation may not roll back: raise Refused, or use tx.begin_nested()")


def _refuse_statement(
    connection: Connection, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool
) -> None:
    guard: Guarded | None = connection.info.get(_GUARD)
    if guard is None:
        return
    if connection.dialect.name == "sqlite" and not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        _refuse(connection, "SQLite has rolled the transaction back; what comes now would stand without its record")
    if _ends_transaction(statement):
        _refuse(connection, "an operation may not begin or end its transaction in SQL; the engine does")
    if _sets(statement):
        connection.info[_SET] = True
    if guard == "query" and _writes(statement):
        _refuse(connection, "a @query only reads: it is never undone. Make it an @operation with a compensation")


@lru_cache(maxsize=512)
def _ends_transaction(statement: str) -> bool:
    return _ENDS_TRANSACTION.match(statement) is not None


@lru_cache(maxsize=512)
def _writes(statement: str) -> bool:
    return _WRITES.match(statement) is not None


@lru_cache(maxsize=512)
def _sets(statement: str) -> bool:
    return _SETS.search(statement) is not None


def _refuse(connection: Connection, why: str) -> NoReturn:
    connection.info[_REFUSED] = why
    raise TransactionMisuse(why)
