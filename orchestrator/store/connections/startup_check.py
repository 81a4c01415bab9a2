"""Checks at startup whether the engine can keep its promises on a database; otherwise the worker does not start.

Settings that make no difference are not checked: `TimeZone`, `DateStyle`, `standard_conforming_strings` and the default
isolation level may have any value, because times are sent in binary form and values as parameters, and each transaction
sets its isolation level. SQLite's encoding may be UTF-16, which can store the same texts as UTF-8.
"""

import logging
import os
from pathlib import Path
from sqlite3 import sqlite_version, sqlite_version_info
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.core.schema import metadata

MINIMUM_VERSION = 14
"""The oldest PostgreSQL that its own project still maintained when the engine was first written."""
MINIMUM_SQLITE = (3, 35, 0)
"""The first SQLite that has `RETURNING`."""
_FACTS = text(
    "SELECT current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding,"
    " pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only,"
    " current_user AS role, current_schema() AS schema, current_setting('search_path') AS search_path,"
    " current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,"
    " current_setting('full_page_writes') AS full_page_writes"
)
_TABLES = text(
    "SELECT c.relname AS name, n.nspname AS schema, pg_table_is_visible(c.oid) AS is_visible, concat_ws(', ',"
    " CASE WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN 'SELECT' END,"
    " CASE WHEN NOT has_table_privilege(c.oid, 'INSERT') THEN 'INSERT' END,"
    " CASE WHEN NOT has_table_privilege(c.oid, 'UPDATE') THEN 'UPDATE' END) AS missing"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(:names) AND has_schema_privilege(n.oid, 'USAGE')"
    " UNION ALL SELECT s.relname, n.nspname, pg_table_is_visible(s.oid),"
    " CASE WHEN has_sequence_privilege(s.oid, 'USAGE') THEN '' ELSE 'USAGE' END"
    " FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace"
    " JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a' AND d.classid = 'pg_class'::regclass"
    " JOIN pg_class c ON c.oid = d.refobjid"
    " WHERE s.relkind = 'S' AND c.relname = ANY(:names) AND has_schema_privilege(n.oid, 'USAGE')"
    " ORDER BY name, schema"
)
"""Finds the engine's tables and their sequences in every schema, with the privileges on them that this role lacks."""
_LOG = logging.getLogger(__name__)


async def check_postgresql(connection: AsyncConnection, shown: str, setting: str) -> None:
    """Check a PostgreSQL database.

    Raises:
        DatabaseUnusable: the engine cannot keep its promises on it; the message says why and what to do.
    """
    facts = (await connection.execute(_FACTS)).one()
    where = f"The database at {shown}"
    _check_facts(facts, where, setting)
    tables = (await connection.execute(_TABLES, {"names": sorted(metadata.tables)})).all()
    _check_tables(tables, facts, where, setting)
    for name, meaning in (
        ("synchronous_commit", "a confirmed commit may be lost, and with it an effect or an outcome"),
        ("fsync", "a crash of its machine may destroy it"),
        ("full_page_writes", "a crash of its machine may destroy it"),
    ):
        if getattr(facts, name) == "off":
            _LOG.warning("%s has %s = off: %s. Turn it on.", where, name, meaning)


def _check_facts(facts: Row[Any], where: str, setting: str) -> None:
    if facts.version < MINIMUM_VERSION * 10_000:
        raise _misconfigured(
            f"{where} is PostgreSQL {facts.version // 10_000}; the engine needs {MINIMUM_VERSION} or newer. Upgrade "
            f"it, or set {setting} to another database."
        )
    if facts.encoding != "UTF8":
        raise _misconfigured(
            f"{where} has the encoding {facts.encoding}, which cannot hold every text that an event may contain. "
            f"Create it again with ENCODING 'UTF8' and TEMPLATE template0, or set {setting} to another database."
        )
    if facts.is_standby or facts.is_read_only:
        why = "a hot standby" if facts.is_standby else "read-only by default_transaction_read_only"
        fix = "the primary" if facts.is_standby else "a writable one, or turn default_transaction_read_only off"
        raise DatabaseUnusable(DatabaseCondition.READ_ONLY, f"{where} is {why}. Set {setting} to {fix}.")
    if facts.schema is None:
        raise _misconfigured(
            f"{where} has no schema in its search_path ({facts.search_path}) that the role {facts.role} may use. "
            "Create one, grant USAGE on it, or correct the search_path."
        )


def _check_tables(tables: Any, facts: Row[Any], where: str, setting: str) -> None:
    visible = [table for table in tables if table.is_visible]
    schemas = sorted({table.schema for table in visible})
    if len(schemas) > 1:
        raise _misconfigured(
            f"{where} has the engine's tables in several schemas ({', '.join(schemas)}), all in the search_path "
            f"({facts.search_path}). Leave only one of them in the search_path."
        )
    if lacking := [table for table in visible if table.missing]:
        missing = ", ".join(f"{table.missing} on {table.name}" for table in lacking[:3])
        raise DatabaseUnusable(
            DatabaseCondition.PERMISSION_DENIED,
            f"{where} does not grant the role {facts.role} what steps need: {missing}. Run: GRANT SELECT, INSERT, "
            f"UPDATE, DELETE ON ALL TABLES IN SCHEMA {schemas[0]} TO {facts.role}",
        )
    if not visible and tables:
        _LOG.warning(
            "%s has the engine's tables in the schema %s, which is not in the search_path (%s). New ones are created "
            "in %s. If you do not want that, stop this worker and correct the search_path.",
            where,
            tables[0].schema,
            facts.search_path,
            facts.schema,
        )


def check_sqlite_file(file: str, shown: str, setting: str) -> None:
    """Create a SQLite file's folder, and check that both can be written, because the journal is in the same folder.

    Raises:
        DatabaseUnusable: the file or its folder cannot be written, or SQLite itself is too old.
        OSError: the folder cannot be created.
    """
    if sqlite_version_info < MINIMUM_SQLITE:
        raise _misconfigured(
            f"The database at {shown} cannot be used: Python's SQLite is {sqlite_version}, and the engine needs "
            f"{'.'.join(map(str, MINIMUM_SQLITE))} or newer. Use a newer Python."
        )
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise _misconfigured(f"The database at {shown} is a folder. Set {setting} to a file.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise DatabaseUnusable(
            DatabaseCondition.READ_ONLY,
            f"The database at {shown} cannot be used: its folder {path.parent} is not writable, and SQLite keeps "
            f"its journal there. Make the folder writable, or set {setting} to a file elsewhere.",
        )
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise DatabaseUnusable(
            DatabaseCondition.READ_ONLY,
            f"The database at {shown} is a file that this user cannot write. Make it writable, or set {setting} to "
            "another file.",
        )


def _misconfigured(message: str) -> DatabaseUnusable:
    return DatabaseUnusable(DatabaseCondition.MISCONFIGURED, message)
