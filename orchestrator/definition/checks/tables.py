"""Checks the names of an application's tables against the engine's names and against each other.

The engine's tables and the application's share a database. An existing table is never created again, so a table of the
application with one of the engine's names would be the engine's table, and no operation on it could succeed. Two names
that differ only in case would be one table on SQLite.
"""

from collections.abc import Iterable, Iterator

from sqlalchemy import MetaData, Table

from orchestrator.definition.checks.databases import database_of, sources_of_tables
from orchestrator.definition.source import Source
from orchestrator.errors import Problem
from orchestrator.protocol.reserved_names import TABLE_PREFIX
from orchestrator.store.core.schema import metadata, saga

_SHARED_SCHEMAS = (None, "public", "main")
"""The names of the connection's own schema, which contains the engine's tables."""


def problems_of_tables(tables: MetaData) -> Iterator[Problem]:
    """Find every table, index and constraint whose name belongs to the engine or to another table of the database."""
    engines = {name.lower() for name in _relations(metadata.tables.values())}
    sources = sources_of_tables(tables)
    first: dict[tuple[str, str, str], Table] = {}
    for table in tables.sorted_tables:
        say = sources.get(table.name, Source(f"table {table.name}", 0)).problem
        schema = None if table.schema in _SHARED_SCHEMAS else table.schema
        name = table.name.lower()
        other = first.setdefault((database_of(table), schema or "", name), table)
        if other is not table and other.name != table.name:
            yield say(
                f"the tables {table.name} and {other.name} differ only in case, and are one table on "
                f'SQLite: rename one, as in `__tablename__ = "{name}_2"`'
            )
        if schema is not None:
            continue
        if name == saga.name or name.startswith(TABLE_PREFIX):
            yield say(
                f"the table {table.name} has a name that is reserved for the engine, as are {saga.name!r} and all "
                f'names that begin with {TABLE_PREFIX!r}: rename it, as in `__tablename__ = "our_{name}"`'
            )
            continue
        for taken in sorted(name for name in _relations([table]) if name.lower() in engines):
            yield say(
                f"the table {table.name} has an index or a constraint {taken}, a name that the engine uses: rename it"
            )


def _relations(tables: Iterable[Table]) -> Iterator[str]:
    """The names of tables, of their indexes, and of their constraints, which a database may store as indexes."""
    for table in tables:
        yield table.name
        yield from (str(index.name) for index in table.indexes if index.name)
        yield from (str(constraint.name) for constraint in table.constraints if constraint.name)
