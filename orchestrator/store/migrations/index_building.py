"""Builds missing indexes on PostgreSQL with CREATE INDEX CONCURRENTLY, while other workers keep running.

Indexes affect speed only, so the first worker builds the missing ones, and workers that start meanwhile do not wait for
them. An interrupted build leaves an invalid index; the next worker that starts drops it and builds it again.
"""

import logging

from sqlalchemy import Connection, Index, text
from sqlalchemy.dialects import registry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex

from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import metadata

_log = logging.getLogger(__name__)

_LOCK = 7_164_202
"""The advisory lock of the process that builds. It is held by a transaction, so it also works behind a pooler."""
_INDEXES = text(
    "SELECT owner.relname AS table_name, owner.relnamespace::regnamespace::text AS schema, "
    "relation.relname AS index_name, entry.indisvalid FROM pg_index AS entry "
    "JOIN pg_class AS relation ON relation.oid = entry.indexrelid "
    "JOIN pg_class AS owner ON owner.oid = entry.indrelid "
    "WHERE owner.relname = ANY(:tables) AND pg_table_is_visible(owner.oid)"
)
_TRY_LOCK = text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")
_NO_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


async def build_missing_indexes(database: Database) -> list[str]:
    """Build the engine's missing indexes. Several workers may do so concurrently, and it may be interrupted.

    If an index cannot be built, the log says so, and says what to do. No error is raised, because the engine works
    without it, only more slowly.

    Returns:
        The names of the indexes that were built; always empty on SQLite, where the migrations build them.
    """
    if database.dialect != "postgresql":
        return []
    async with database.engine.connect() as connection:
        if not await connection.run_sync(_missing):
            return []
    built: list[str] = []
    async with database.engine.connect() as lock_holder:
        if not await lock_holder.scalar(_TRY_LOCK):
            return []
        missing = await lock_holder.run_sync(_missing)
        # An idle transaction keeps the snapshot of its last query, and CREATE INDEX CONCURRENTLY would wait for it
        # forever. So the last statement of this transaction is one that needs no snapshot.
        for setting in _NO_TIMEOUTS:
            await lock_holder.execute(text(f"SET LOCAL {setting} = 0"))
        for index, schema in missing:
            statement = _concurrently(index, schema)
            try:
                await _build(database, f"{schema}.{index.name}", statement)
            except (SQLAlchemyError, OSError) as fault:
                _log.warning(
                    "The index %s could not be built (%s). Until it exists, commands that need it are slow on a large "
                    "table. The next worker that starts tries again. To build it by hand, run: %s",
                    *(index.name, getattr(fault, "orig", None) or fault, statement),
                )
            else:
                built.append(str(index.name))
        await lock_holder.rollback()
    return built


async def _build(database: Database, name: str, statement: str) -> None:
    from orchestrator.store.connections.pooler import is_pooled  # not needed on SQLite, and slow to import

    _log.info("Building the index %s. This may take minutes on a large table, but blocks nothing.", name)
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            # The timeouts are turned off for the session, because there is no transaction here. Behind a pooler that
            # would affect other clients, and is not needed, because there timeouts are set by each transaction.
            if not await is_pooled(connection):
                for setting in _NO_TIMEOUTS:
                    await connection.execute(text(f"SET {setting} = 0"))
            await connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            await connection.execute(text(statement))
        finally:
            await connection.invalidate()  # so that nothing else runs on it without timeouts


def _concurrently(index: Index, schema: str) -> str:
    on = f" ON {index.table.name} "  # type: ignore[union-attr]
    dialect = registry.load("postgresql")()
    plain = str(CreateIndex(index).compile(dialect=dialect))
    return plain.replace("INDEX", "INDEX CONCURRENTLY", 1).replace(on, f" ON {schema}.{on[4:]}", 1)


def _missing(connection: Connection) -> list[tuple[Index, str]]:
    """Return the engine's indexes that are missing or invalid on existing tables, each with its table's schema.

    Statements name the schema because the build runs outside of a transaction, where the URL's `search_path` does not
    apply behind a pooler.
    """
    rows = connection.execute(_INDEXES, {"tables": list(metadata.tables)}).all()
    schemas = {row.table_name: row.schema for row in rows}
    valid = {row.index_name for row in rows if row.indisvalid}
    indexes = [(index, schema) for name, schema in schemas.items() for index in metadata.tables[name].indexes]
    missing = [(index, schema) for index, schema in indexes if index.name not in valid]
    return sorted(missing, key=lambda entry: str(entry[0].name))
