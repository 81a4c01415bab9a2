"""Checks of the names of an application's tables: none is the engine's, and none is another's in other letters' case.

The engine's tables and the application's share a database. A table that exists is never created again, so one of the
engine's names would give the application's operations the engine's table, and no attempt of theirs could succeed.
"""

from collections.abc import Iterable, Iterator

from sqlalchemy import MetaData, Table

from orchestrator.definition.databases import database_of, places_of_tables
from orchestrator.errors import Problem
from orchestrator.operation import Source
from orchestrator.protocol.reserved_names import TABLE_PREFIX
from orchestrator.store.core.schema import metadata, saga

_SHARED_SCHEMAS = (None, "public", "main")
"""Schemas that the engine's tables are in: the connection's own, by whichever name."""


def problems_of_tables(tables: MetaData) -> Iterator[Problem]:
    """Every table, index and constraint that is named as one of the engine's, or as another of the same database."""
    engines = {name.lower() for name in _relations(metadata.tables.values())}
    places = places_of_tables(tables)
    first: dict[tuple[str, str, str], Table] = {}
    for table in tables.sorted_tables:
        say = places.get(table.name, Source(f"table {table.name}", 0)).problem
        schema = None if table.schema in _SHARED_SCHEMAS else table.schema
        name = table.name.lower()
        other = first.setdefault((database_of(table), schema or "", name), table)
        if other is not table and other.name != table.name:
            yield say(
                f"the table {table.name} is the table {other.name} in other letters' case, which SQLite does not tell "
                f'apart: rename one, as in `__tablename__ = "{name}_2"`'
            )
        if schema is not None:
            continue
        if name == saga.name or name.startswith(TABLE_PREFIX):
            yield say(
                f"the table {table.name} has a name of the engine's own, as have {saga.name!r} and all that begins "
                f'with {TABLE_PREFIX!r}: rename it, as in `__tablename__ = "our_{name}"`'
            )
            continue
        for taken in sorted(one for one in _relations([table]) if one.lower() in engines):
            yield say(f"the table {table.name} names an index or a constraint {taken}, as the engine does: rename it")


def _relations(tables: Iterable[Table]) -> Iterator[str]:
    """Names of tables, of their indexes, and of the constraints that a database keeps an index for."""
    for table in tables:
        yield table.name
        yield from (str(index.name) for index in table.indexes if index.name)
        yield from (str(constraint.name) for constraint in table.constraints if constraint.name)
