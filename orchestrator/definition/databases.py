"""Checks of where operations and tables live: every name is known, and no constraint reaches from one to another."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlalchemy import MetaData, Table
from sqlmodel import SQLModel

from orchestrator.errors import Problem
from orchestrator.operation import HOME, Operation, Source

NAME_LIMIT = 64
"""Characters of a database's name, as its column holds them."""


def fault_of_name(name: object) -> str | None:
    """What is wrong with a name of a database; None if nothing is."""
    if isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= NAME_LIMIT:
        return None
    return f"{name!r} is no name of a database: letters, digits and _, as in 'activity_log', at most {NAME_LIMIT}"


def database_of(table: Table) -> str:
    """Where a table lives: `__table_args__ = {"info": {"database": "activity_log"}}`, or at home."""
    return str(table.info.get("database", HOME))


def problems_of_databases(
    operations: Iterable[Operation[..., Any]], tables: MetaData, known: Collection[str]
) -> Iterator[Problem]:
    """Every operation and table in a database that is not set, and every foreign key between two databases.

    Args:
        operations: the application's.
        tables: the application's.
        known: names of databases that the settings give an address, without home.
    """
    for operation in operations:
        if operation.database != HOME and operation.database not in known:
            short = operation.name.rpartition(".")[2]
            yield operation.source.problem(f"{short} runs in the database {_missing(operation.database)}")
    places = places_of_tables(tables)
    for table in tables.sorted_tables:
        say = places.get(table.name, Source(f"table {table.name}", 0)).problem
        here = database_of(table)
        if (fault := fault_of_name(here)) is not None:
            yield say(fault)
        elif here != HOME and here not in known:
            yield say(f"the table {table.name} lives in the database {_missing(here)}")
        for key in table.foreign_keys:
            there = database_of(key.column.table)
            if there != here:
                yield say(
                    f"{table.name}.{key.parent.name} refers to {key.target_fullname}, which lives in the database "
                    f"{there}, and {table.name} in {here}: keep the id without a foreign key"
                )


def _missing(name: str) -> str:
    return (
        f'{name!r}, which has no address: set ORCHESTRATOR_DATABASES=\'{{"{name}": "postgresql://user:password@host/name'
        "\"}', or [tool.orchestrator.databases] in pyproject.toml"
    )


def places_of_tables(tables: MetaData) -> dict[str, Source]:
    """Where each table's class is defined, if it is a SQLModel."""
    found: dict[str, Source] = {}
    left: list[Any] = [SQLModel]
    while left:
        model = left.pop()
        left += model.__subclasses__()
        table = getattr(model, "__table__", None)
        if isinstance(table, Table) and table.metadata is tables:
            found[table.name] = Source.of(model)
    return found
