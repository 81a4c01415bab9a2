"""Makes the database refuse every write of a query, including writes by a database function that the query calls.

On PostgreSQL the query runs in a subtransaction with `transaction_read_only` on, which cannot be turned off there.
Releasing the savepoint makes the transaction writable again, because the step's record is written in it afterwards. On
SQLite the query runs under `PRAGMA query_only`, which belongs to the connection and so must always be turned off again.

Each database decides what counts as a write. PostgreSQL also refuses `nextval()`, locking reads (`FOR UPDATE`) and new
temporary tables; it allows advisory locks and `pg_notify()`, which leave nothing behind after a rollback.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.connections.errors import DatabaseCondition, condition_of

_IS_ON = "orchestrator_read_only"
_SAVEPOINT = "orchestrator_read_only"
_BEGIN = f"SAVEPOINT {_SAVEPOINT}; SET LOCAL transaction_read_only = on"
_END = f"RELEASE SAVEPOINT {_SAVEPOINT}"
_PING = text("SELECT 1")
_ENDS_READ_ONLY = re.compile(rf"\b(?:{_SAVEPOINT}|query_only)\b", re.IGNORECASE)


@asynccontextmanager
async def read_only(connection: AsyncConnection) -> AsyncGenerator[None]:
    """Refuse writes on this connection within the block; its transaction continues after the block.

    If the block raises, the transaction has to be rolled back. Costs two round trips.
    """
    if connection.dialect.name == "sqlite":
        async with _sqlite_read_only(connection):
            yield
        return
    await _send(connection, _BEGIN)
    yield
    await _send(connection, _END)


def end_read_only(connection: Connection) -> None:
    """Make a pooled SQLite connection writable again, if a cancelled block left it read-only."""
    if connection.info.pop(_IS_ON, False):
        connection.exec_driver_sql("PRAGMA query_only = OFF")


@lru_cache(maxsize=512)
def ends_read_only(statement: str) -> bool:
    """Whether a statement mentions the savepoint or the pragma that keeps the query from writing."""
    return _ENDS_READ_ONLY.search(statement) is not None


def refused_write(context: ExceptionContext) -> str | None:
    """Return the database's message if it refused a write because of read-only mode, otherwise None."""
    fault = context.original_exception
    if condition_of(fault) is DatabaseCondition.READ_ONLY:
        return str(fault).splitlines()[0].rpartition(">: ")[2]
    return None


@asynccontextmanager
async def _sqlite_read_only(connection: AsyncConnection) -> AsyncGenerator[None]:
    await connection.run_sync(_begin_sqlite_read_only)
    try:
        yield
    finally:
        if connection.sync_connection is not None and not connection.invalidated:
            await connection.run_sync(end_read_only)


def _begin_sqlite_read_only(connection: Connection) -> None:
    connection.info[_IS_ON] = True
    connection.exec_driver_sql("PRAGMA query_only = ON")


async def _send(connection: AsyncConnection, statements: str) -> None:
    """Send statements without parameters in one round trip; SQLAlchemy cannot, because it prepares each one."""
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    if not driver.is_in_transaction():
        await connection.execute(_PING)  # SQLAlchemy begins the transaction with its first statement
    try:
        await driver.execute(statements)
    except Exception:
        await connection.execute(_PING)  # fails too, and SQLAlchemy translates the error
        raise
