"""Connects to PostgreSQL directly or through a connection pooler such as PgBouncer, depending on the address.

A pooler in transaction mode may run each transaction on another server connection. Nothing that belongs to a session is
reliable there: a setting would apply to other clients' transactions, and a prepared statement may be missing or belong
to another client. So each transaction makes its own settings together with its `BEGIN`, and statements have no name.
Both are also correct in session mode, which looks the same to a client. A pooler is recognised because it refuses a
startup parameter, or because the process id that it reports is not that of the server process.
"""

from collections.abc import Mapping
from typing import Any, cast

import asyncpg  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.core.driver_text import is_engine_statement

_connect = cast(Any, asyncpg.connect)  # pyright: ignore[reportUnknownMemberType]
_PASSED_ON = frozenset({"application_name"})
"""Startup parameters that every pooler accepts and applies to the server connection."""
_SOCKET_PREFIX = "tcp_"
"""The prefix of settings for a socket; behind a pooler that socket is the pooler's own, so they are left out."""
_REFUSED_PARAMETER = "unsupported startup parameter"
_STATEMENT_MODE = "statement pooling mode"
_FOREIGN_STATEMENT = frozenset({"42P05", "26000"})
"""SQLSTATEs for a prepared statement that exists unexpectedly or is missing, as on another client's connection."""


class PoolerAwareConnect:
    """Opens PostgreSQL connections, adapted to a pooler if there is one; called instead of `asyncpg.connect`.

    Once a pooler has been found, every later connection is adapted. A direct connection works in the adapted form as
    well.
    """

    def __init__(self) -> None:
        self.is_pooled = False

    async def __call__(self, **options: Any) -> Any:
        """Connect with the options of `asyncpg.connect`."""
        if not self.is_pooled:
            try:
                connection: Any = await _connect(**options)
            except asyncpg.PostgresError as fault:
                if _REFUSED_PARAMETER not in str(fault) and getattr(fault, "sqlstate", None) not in _FOREIGN_STATEMENT:
                    raise
            else:
                if await _is_direct(connection):
                    return connection
                await connection.close()
            await self._check_mode(options)
            self.is_pooled = True
        return await self._connect_pooled(options)

    async def _check_mode(self, options: dict[str, Any]) -> None:
        connection = await self._connect_pooled(options)
        try:
            async with connection.transaction():
                pass
        except asyncpg.PostgresError as fault:
            if _STATEMENT_MODE not in str(fault):
                raise
            raise DatabaseUnusable(
                DatabaseCondition.MISCONFIGURED,
                f"The pooler in front of the database allows no transactions ({fault}). Set its pool_mode to "
                "transaction or session.",
            ) from fault
        finally:
            await connection.close()

    @staticmethod
    async def _connect_pooled(options: dict[str, Any]) -> Any:
        settings: dict[str, str] = options.get("server_settings", {})
        pooled: Any = await _connect(
            **options
            | {
                "statement_cache_size": 0,
                "connection_class": PooledConnection,
                "server_settings": {name: value for name, value in settings.items() if name in _PASSED_ON},
            }
        )
        pooled.begin_with(settings)
        return pooled


class PooledConnection(asyncpg.Connection):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """A connection through a pooler. It relies on no state that outlives a transaction or a message."""

    def begin_with(self, settings: Mapping[str, str]) -> None:
        """Make these settings in each transaction, in the same message as `BEGIN`, so that they cost no round trip."""
        local = [
            f"set_config({_quoted(name)}, {_quoted(value)}, true)"
            for name, value in settings.items()
            if name not in _PASSED_ON and not name.startswith(_SOCKET_PREFIX)
        ]
        self.transaction_settings = f" SELECT {', '.join(local)}" if local else ""
        self._engine_statements: dict[str, Any] = {}

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Execute a statement as asyncpg does; a `BEGIN` also makes the transaction's settings."""
        if query.startswith("BEGIN") and query.endswith(";"):
            query += self.transaction_settings
        driver: Any = super()
        status: str = await driver.execute(query, *args, timeout=timeout)
        return status

    async def prepare(self, query: str, *, name: str | None = None, **options: Any) -> Any:
        """Prepare a statement as asyncpg does, but without a name; the server then parses it at each execution.

        The engine's own statements are described only once. An author's statement is described each time, which costs a
        round trip, because otherwise a changed column type would go unnoticed.
        """
        driver: Any = super()
        if not is_engine_statement(query):
            return await driver.prepare(query, name="", **options)
        prepared = self._engine_statements.get(query)
        if prepared is None:
            prepared = self._engine_statements[query] = await driver.prepare(query, name="", **options)
        return prepared


async def is_pooled(connection: AsyncConnection) -> bool:
    """Whether a connection goes through a pooler, so that no session setting may be made on it."""
    return type((await connection.get_raw_connection()).driver_connection) is PooledConnection


def adapted(dialect: Any, connection: Any) -> Any:
    """Return SQLAlchemy's adapter of a connection, without a statement cache if it goes through a pooler."""
    driver = connection.driver_connection
    if type(driver) is not PooledConnection:  # asyncpg's `isinstance` is true for every connection
        return connection
    make: Any = AsyncAdapt_asyncpg_connection
    return make(dialect.dbapi, driver, prepared_statement_cache_size=0)


async def _is_direct(connection: Any) -> bool:
    """Compare process ids in one round trip, without a prepared statement, because a pooler might misroute that."""
    own = connection.get_server_pid()
    status: str = await connection.execute(f"SELECT FROM generate_series(1, 1) WHERE pg_backend_pid() = {own}")
    return status == "SELECT 1"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
