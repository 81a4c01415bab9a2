"""Creates a database's SQLAlchemy engine: its pool, PostgreSQL's session settings, and SQLite's pragmas."""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from orchestrator.store.connections.errors import DatabaseCondition, condition_of
from orchestrator.store.connections.url import DatabaseUrl
from orchestrator.store.core.misuse_guard import watch
from orchestrator.store.core.read_only import end_read_only
from orchestrator.store.core.sqlite import connect_steadily

WAIT_FOR_CONNECTION = 10
"""Seconds that a transaction waits for a connection from the pool."""
BUSY_TIMEOUT = 30_000
"""Milliseconds that SQLite waits while another process writes."""


SESSION_SETTINGS = {
    # So that a worker that is stopped inside a step releases its locks, and its late commit fails.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "10s",
    "statement_timeout": "20s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "application_name": "orchestrator",
}
"""PostgreSQL's settings for each connection; `options` and `application_name` in the URL override them."""


def create_engine(address: DatabaseUrl, pool_size: int) -> AsyncEngine:
    """Create the SQLAlchemy engine of a database; nothing is connected yet."""
    options: dict[str, Any] = {
        "hide_parameters": True,
        # No overflow, because overflow connections are closed on return, and under load every other saga had to open
        # one.
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": WAIT_FOR_CONNECTION,
        # Reuse the last one first: it has its statements prepared, and at low load a few connections are enough.
        "pool_use_lifo": True,
    }
    url = address.url
    if address.postgres is not None:
        # Imported here, because importing asyncpg is slow and SQLite does not need it.
        from orchestrator.store.connections.postgres import PostgresConnector

        # Only the connector knows the address. SQLAlchemy does not, so its errors cannot contain the password.
        url = URL.create(url.drivername)
        options["isolation_level"] = "READ COMMITTED"
        connector = PostgresConnector(address.postgres, address.shown, SESSION_SETTINGS)
        caches = {name: size for name, size in address.postgres.caches.items() if name.startswith("prepared")}
        options["connect_args"] = {"async_creator_fn": connector, **caches}
    else:
        options["connect_args"] = {"async_creator_fn": connect_steadily}
    engine = create_async_engine(url, **options)
    if address.dialect == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    else:
        event.listen(engine.sync_engine, "do_connect", _connect_postgres)
    watch(engine)
    if address.dialect == "postgresql":
        event.listen(engine.sync_engine, "handle_error", _drop_if_read_only)
    return engine


def _connect_postgres(dialect: Any, _record: Any, args: Any, options: Any) -> Any:
    from orchestrator.store.connections.pooler import adapted

    return adapted(dialect, dialect.connect(*args, **options))


def _drop_if_read_only(context: ExceptionContext) -> None:
    """Discard a connection to a server that refuses writes.

    It may have been opened to a standby, or while the database was read-only. It would stay read-only for as long as it
    is pooled, even after a failover. A query's refused write does not get here, because `misuse_guard` raises first.
    """
    if condition_of(context.original_exception) is DatabaseCondition.READ_ONLY:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, in `_begin_sqlite`
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    end_read_only(connection)
    reads = connection.get_execution_options().get("orchestrator_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
