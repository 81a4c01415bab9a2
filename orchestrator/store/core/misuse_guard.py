"""Prevents an author's code from ending the step's transaction, and prevents a query from writing."""

import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, Literal, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from orchestrator.errors import TransactionMisuse
from orchestrator.store.core.read_only import ends_read_only, read_only, refused_write
from orchestrator.store.core.session_state import COMMENTS, is_touched, note_statement, restore_names
from orchestrator.transaction import FLUSHING

Guarded = Literal["operation", "query"]

_GUARD = "orchestrator_guard"
_REFUSED = "orchestrator_refused"
_ONLY_READS = "a @query only reads, because it is never undone"
_MAKE_IT_AN_OPERATION = "Make it an @operation with a compensation"
_ENDS_TRANSACTION = re.compile(
    COMMENTS + r"(?:(?:commit|end|abort|begin|start\s+transaction|prepare\s+transaction|rollback(?!\s+to))\b"
    r"|(?:insert|update)\s+or\s+rollback\b)",
    re.IGNORECASE | re.DOTALL,
)


def watch(engine: AsyncEngine) -> None:
    """Check every statement, commit and rollback on an engine's connections inside a `guarded` block."""
    event.listen(engine.sync_engine, "commit", _refuse_commit)
    event.listen(engine.sync_engine, "rollback", _refuse_rollback)
    event.listen(engine.sync_engine, "before_cursor_execute", _refuse_statement)
    event.listen(engine.sync_engine, "handle_error", _refuse_write)


@asynccontextmanager
async def guarded(connection: AsyncConnection, what: Guarded) -> AsyncGenerator[None]:
    """Prevent an author's code within the block from ending the transaction, and prevent a query from writing.

    Raises:
        TransactionMisuse: the code tried to do so, even if it caught the error.
    """
    if what == "operation":
        async with _watched(connection, what):
            yield
    else:
        async with read_only(connection), _watched(connection, what):
            yield
    await restore_names(connection)


@asynccontextmanager
async def _watched(connection: AsyncConnection, what: Guarded) -> AsyncGenerator[None]:
    # Read once, because a connection that is lost in between no longer has an `info`.
    info = connection.sync_connection.info if connection.sync_connection else {}
    info[_GUARD] = what
    try:
        yield
    finally:
        info.pop(_GUARD, None)
        refused: str | None = info.pop(_REFUSED, None)
        if refused is not None:
            # SQLAlchemy considers the transaction ended, and would return the connection to the pool with it open.
            await connection.invalidate()
            raise TransactionMisuse(refused)


@contextmanager
def untouched(connection: AsyncConnection) -> Generator[Callable[[], bool]]:
    """Check whether the code in the block leaves the connection and its transaction unchanged (PostgreSQL).

    Yields:
        A function that returns whether they are unchanged.
    """
    driven = sync_connection_of(connection)
    options = driven.get_execution_options()
    is_touched(driven)

    def is_unchanged() -> bool:
        was_touched = is_touched(driven)
        driver: Any = driven.connection.driver_connection
        return not was_touched and driven.get_execution_options() == options and bool(driver.is_in_transaction())

    yield is_unchanged


def sync_connection_of(connection: AsyncConnection) -> Connection:
    """Return the synchronous connection beneath a started asynchronous one."""
    driven = connection.sync_connection
    assert driven is not None  # because it has been started
    return driven


def _refuse_commit(connection: Connection) -> None:
    if _GUARD in connection.info:
        _refuse(connection, "an operation may not commit; the engine commits it together with the step's record")


def _refuse_rollback(connection: Connection) -> None:
    if connection.invalidated or FLUSHING in connection.info:
        return  # SQLAlchemy's own rollback after an error, which is about to be raised
    if _GUARD in connection.info:
        _refuse(connection, "an operation may not roll back: raise Refused, or use tx.begin_nested()")


def _refuse_statement(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> None:
    guard: Guarded | None = connection.info.get(_GUARD)
    if guard is None:
        return
    if connection.dialect.name == "sqlite" and not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        _refuse(connection, "SQLite has rolled back the transaction; this statement would commit without its record")
    if _ends_transaction(statement):
        _refuse(connection, "an operation may not begin or end its transaction in SQL; the engine does")
    note_statement(connection, statement, parameters)
    if guard == "query" and ends_read_only(statement):
        _refuse(connection, f"{_ONLY_READS}, so it may not end its read-only mode. {_MAKE_IT_AN_OPERATION}")


def _refuse_write(context: ExceptionContext) -> None:
    """Raise and record a query's write that the database refused, because the author's code may catch the error."""
    connection = context.connection
    if connection is None or connection.info.get(_GUARD) != "query":
        return
    message = refused_write(context)
    if message is not None:
        _refuse(connection, f"{_ONLY_READS}, and the database refused a write: {message}. {_MAKE_IT_AN_OPERATION}")


@lru_cache(maxsize=512)
def _ends_transaction(statement: str) -> bool:
    return _ENDS_TRANSACTION.match(statement) is not None


def _refuse(connection: Connection, why: str) -> NoReturn:
    connection.info[_REFUSED] = why
    raise TransactionMisuse(why)
