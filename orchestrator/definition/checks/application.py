"""Finds everything that an application declares and checks it as a whole, without any server."""

from collections.abc import Collection, Sequence

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import SQLModel

from orchestrator.definition.catalog import Catalog
from orchestrator.definition.checks.databases import problems_of_databases
from orchestrator.definition.checks.tables import problems_of_tables
from orchestrator.errors import DefinitionError, Problem


def check_application(packages: Sequence[str], databases: Collection[str], catalog: Catalog | None = None) -> Catalog:
    """Return the application's catalog, after its definitions and its tables have been checked.

    Args:
        packages: the packages that declare the application.
        databases: the names of the databases that have an address in the settings, without home.
        catalog: the orchestrators and operations, by default those that the packages declare.

    Raises:
        DefinitionError: something is declared incorrectly; the error lists every fault.
    """
    problems: list[Problem] = []
    try:
        catalog = catalog or Catalog.discover(packages)
    except DefinitionError as fault:
        problems += fault.problems
    tables = SQLModel.metadata
    try:
        operations = catalog.operations.values() if catalog else ()
        problems += [*problems_of_databases(operations, tables, databases), *problems_of_tables(tables)]
    except SQLAlchemyError:
        # A table refers to a table in a module that cannot be imported; that module is already among the problems.
        if not problems:
            raise
    if problems:
        raise DefinitionError(problems)
    assert catalog is not None
    return catalog
