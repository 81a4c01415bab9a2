"""Checks the databases of operations and tables: each is configured, and no foreign key crosses databases."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlalchemy import MetaData, Table
from sqlmodel import SQLModel

from orchestrator.definition.source import Source
from orchestrator.errors import Problem
from orchestrator.operation import HOME, Operation

NAME_LIMIT = 64
"""The maximum length of a database's name, which is the length of its column."""


def fault_of_name(name: object) -> str | None:
    """Return what is wrong with a database's name, or None."""
    if isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= NAME_LIMIT:
        return None
    return f"{name!r} is not a name of a database: letters, digits and _, as in 'activity_log', at most {NAME_LIMIT}"


def database_of(table: Table) -> str:
    """Return the name of a table's database: `__table_args__ = {"info": {"database": "activity_log"}}`, or home."""
    return str(table.info.get("database", HOME))


def problems_of_databases(
    operations: Iterable[Operation[..., Any]], tables: MetaData, known: Collection[str]
) -> Iterator[Problem]:
    """Find every operation and table in a database without an address, and every foreign key between two databases.

    Args:
        operations: the application's operations.
        tables: the application's tables.
        known: the names of databases that have an address in the settings, without home.
    """
    for operation in operations:
        if operation.database != HOME and operation.database not in known:
            short = operation.name.rpartition(".")[2]
            yield operation.source.problem(f"{short} runs in the database {_missing(operation.database)}")
    sources = sources_of_tables(tables)
    for table in tables.sorted_tables:
        say = sources.get(table.name, Source(f"table {table.name}", 0)).problem
        here = database_of(table)
        if (fault := fault_of_name(here)) is not None:
            yield say(fault)
        elif here != HOME and here not in known:
            yield say(f"the table {table.name} is in the database {_missing(here)}")
        for key in table.foreign_keys:
            there = database_of(key.column.table)
            if there != here:
                yield say(
                    f"{table.name}.{key.parent.name} refers to {key.target_fullname}, which is in the database "
                    f"{there}, but {table.name} is in {here}: store the id without a foreign key"
                )


def _missing(name: str) -> str:
    return (
        f'{name!r}, which has no address: set ORCHESTRATOR_DATABASES=\'{{"{name}": "postgresql://user:password@host/name'
        "\"}', or [tool.orchestrator.databases] in pyproject.toml"
    )


def sources_of_tables(tables: MetaData) -> dict[str, Source]:
    """Return where each table's class is defined, if it is a SQLModel."""
    sources: dict[str, Source] = {}
    pending: list[Any] = [SQLModel]
    while pending:
        model = pending.pop()
        pending += model.__subclasses__()
        table = getattr(model, "__table__", None)
        if isinstance(table, Table) and table.metadata is tables:
            sources[table.name] = Source.of(model)
    return sources
