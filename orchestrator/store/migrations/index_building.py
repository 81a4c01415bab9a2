"""Builds indexes that are missing on PostgreSQL, while other workers go on: CREATE INDEX CONCURRENTLY.

An index makes nothing right or wrong, only fast. So the first worker to come builds what is missing, and workers that
come meanwhile start without it. A build that is cut off leaves an invalid index; the next worker that starts drops it
and builds it anew.
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
"""Advisory lock of whoever builds. It is the transaction's, so that it works behind a connection pooler, too."""
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
    """Build what is missing of the engine's indexes. Safe to run from several workers at once, and to cut off.

    That an index cannot be built is logged with what to do, and raises nothing: everything works without it, slowly.

    Returns:
        The names of the indexes that were built; always empty on SQLite, where migrations build them.
    """
    if database.dialect != "postgresql":
        return []
    async with database.engine.connect() as connection:
        if not await connection.run_sync(_missing):
            return []
    built: list[str] = []
    async with database.engine.connect() as holding:
        if not await holding.scalar(_TRY_LOCK):
            return []
        missing = await holding.run_sync(_missing)
        # A transaction that is idle keeps the snapshot of its last query, and CREATE INDEX CONCURRENTLY would wait for
        # that for ever. So the last statement is one that needs no snapshot.
        for setting in _NO_TIMEOUTS:
            await holding.execute(text(f"SET LOCAL {setting} = 0"))
        for index, schema in missing:
            statement = _concurrently(index, schema)
            try:
                await _build(database, f"{schema}.{index.name}", statement)
            except (SQLAlchemyError, OSError) as fault:
                _log.warning(
                    "the index %s could not be built (%s). Commands that need it are slow on a large table until it is "
                    "there; the next worker that starts tries again. To build it by hand, run: %s",
                    *(index.name, getattr(fault, "orig", None) or fault, statement),
                )
            else:
                built.append(str(index.name))
        await holding.rollback()
    return built


async def _build(database: Database, name: str, statement: str) -> None:
    from orchestrator.store.connections.pooler import is_pooled  # what runs on SQLite does not wait for asyncpg

    _log.info("building the index %s: this may take minutes on a large table, and blocks nothing", name)
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            # There is no transaction here. Through a pooler a session's setting would reach other clients, and this
            # connection has no timeouts anyway, because its transactions set them.
            if not await is_pooled(connection):
                for setting in _NO_TIMEOUTS:
                    await connection.execute(text(f"SET {setting} = 0"))
            await connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
            await connection.execute(text(statement))
        finally:
            await connection.invalidate()  # no other work is to run without timeouts


def _concurrently(index: Index, schema: str) -> str:
    on = f" ON {index.table.name} "  # type: ignore[union-attr]
    dialect = registry.load("postgresql")()
    plain = str(CreateIndex(index).compile(dialect=dialect))
    return plain.replace("INDEX", "INDEX CONCURRENTLY", 1).replace(on, f" ON {schema}.{on[4:]}", 1)


def _missing(connection: Connection) -> list[tuple[Index, str]]:
    """The engine's indexes that are not there, or not valid, of tables that are there; each with its table's schema.

    The schema is named because a statement outside of a transaction may find another one first: through a pooler the
    `search_path` of the URL is set in transactions.
    """
    rows = connection.execute(_INDEXES, {"tables": list(metadata.tables)}).all()
    schemas = {row.table_name: row.schema for row in rows}
    valid = {row.index_name for row in rows if row.indisvalid}
    indexes = [(index, schema) for name, schema in schemas.items() for index in metadata.tables[name].indexes]
    return sorted((one for one in indexes if one[0].name not in valid), key=lambda one: str(one[0].name))
