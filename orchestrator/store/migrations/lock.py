"""The transaction in which tables are changed: only one process has it at a time, and it has no timeouts.

On PostgreSQL, waiting processes poll the lock instead of blocking on it, because a blocked statement holds a snapshot,
and `CREATE INDEX CONCURRENTLY` in another process would wait for that snapshot.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from time import monotonic

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import Unreachable
from orchestrator.store.connections.errors import DatabaseCondition, condition_of
from orchestrator.store.connections.settings import BUSY_TIMEOUT
from orchestrator.store.core.database import Database

_LOCK = 7_164_201
"""The advisory lock that a migration holds on PostgreSQL; SQLite has only one writer anyway."""
_POLL_INTERVAL = 0.2
"""Seconds between two attempts to get the lock."""
_PATIENCE = 1.0
"""Seconds of waiting before the wait is logged."""
_REPORT_INTERVAL = 30.0
"""Seconds between two log lines about the same wait."""
LOOK_AT_BLOCKERS = 10.0
"""Seconds between two checks of what blocks a migration."""
_NO_TIMEOUTS = text(
    "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', "
    "'idle_in_transaction_session_timeout', 'transaction_timeout')"
)
_TRY = text("SELECT pg_try_advisory_xact_lock(:key)").bindparams(key=_LOCK)
_HOLDER = text(
    "SELECT 'process ' || pid || coalesce(' from ' || host(client_addr), '') || ', which began '"
    " || to_char(xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS') || ' UTC' FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32) + objid::bigint = :key"
    " AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
).bindparams(key=_LOCK)
_OWN = text("SELECT pg_backend_pid()")
_BLOCKERS = text(
    "SELECT string_agg('process ' || pid || ' (' || application_name || ', ' || coalesce(state, '') || ')', ', ')"
    " FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids(:own))"
)
_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def migrating(database: Database) -> AsyncGenerator[AsyncConnection]:
    """Open the transaction for changing tables; wait without limit while another process has it.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: the database cannot be used.
    """
    wait_log = _WaitLog(database.shown)
    while True:
        attempt = _on_postgresql(database) if database.dialect == "postgresql" else _on_sqlite(database)
        async with attempt as (connection, holder):
            if connection is not None:
                wait_log.report_end()
                yield connection
                return
        wait_log.report_waiting(holder)
        await asyncio.sleep(_POLL_INTERVAL)


@asynccontextmanager
async def _on_postgresql(database: Database) -> AsyncGenerator[tuple[AsyncConnection | None, str]]:
    async with database.transaction() as connection:
        await connection.execute(_NO_TIMEOUTS)
        if await connection.scalar(_TRY):
            own = await connection.scalar(_OWN)
            reporting = asyncio.create_task(_report_blockers(database, own))
            try:
                yield connection, ""
            finally:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)
        else:
            yield None, await connection.scalar(_HOLDER) or "another process"


async def _report_blockers(database: Database, own: int) -> None:
    """Log what blocks a migration, because without a lock timeout no error would ever report it."""
    began = monotonic()
    while True:
        await asyncio.sleep(LOOK_AT_BLOCKERS)
        with suppress(SQLAlchemyError, OSError, Unreachable):
            async with database.reading() as connection:
                blockers = await connection.scalar(_BLOCKERS, {"own": own})
            if blockers:
                _LOG.warning(
                    "The migration of %s has waited for a lock of %s (%.0f s so far). End that transaction.",
                    database.shown,
                    blockers,
                    monotonic() - began,
                )


@asynccontextmanager
async def _on_sqlite(database: Database) -> AsyncGenerator[tuple[AsyncConnection | None, str]]:
    async with database.engine.connect() as connection:
        # Wait in Python and not in SQLite, because Ctrl-C cannot interrupt a wait inside SQLite.
        await _set_busy_timeout(connection, 0)
        try:
            transaction = await connection.begin()
        except DBAPIError as fault:
            if condition_of(fault) is not DatabaseCondition.LOCKED:
                raise
            transaction = None
        finally:
            await _set_busy_timeout(connection, BUSY_TIMEOUT)
        if transaction is None:
            yield None, "another process that is writing to the file"
            return
        try:
            yield connection, ""
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()


async def _set_busy_timeout(connection: AsyncConnection, milliseconds: int) -> None:
    # Sent to the driver directly, because SQLAlchemy would begin a transaction first.
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.execute(f"PRAGMA busy_timeout={milliseconds}")


class _WaitLog:
    """Logs a wait when it has lasted a second, every 30 seconds while it lasts, and when it ends."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._since: float | None = None
        self._reported = -_REPORT_INTERVAL

    def report_waiting(self, holder: str) -> None:
        """Log that `holder` still has the lock, unless this has just been logged."""
        now = monotonic()
        if self._since is None:
            self._since = now
        if now - self._since < _PATIENCE or now - self._reported < _REPORT_INTERVAL:
            return
        self._reported = now
        _LOG.warning(
            "Waiting for %s to finish changing the tables of %s (%.0f s so far). Press Ctrl-C to stop waiting.",
            holder,
            self._shown,
            now - self._since,
        )

    def report_end(self) -> None:
        """Log that this process has acquired the lock, if its wait was logged."""
        if self._since is not None and self._reported > self._since:
            waited = monotonic() - self._since
            _LOG.warning("The lock on the tables of %s was acquired after %.0f s.", self._shown, waited)
