"""Statements that the domains share: their SQL differs between the databases, or their row count must be checked."""

from typing import Any

from sqlalchemy import CursorResult
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel

from orchestrator import Transaction


class ChangedMeanwhile(Exception):
    """The obstacle to a statement disappeared before its cause could be read. The engine retries the step."""


class RowGone(Exception):
    """A row that a compensation has to change is missing. No rule allows that, so a person has to examine it."""


def insert_into(tx: Transaction, table: type[SQLModel]) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that supports ON CONFLICT, in the database's own dialect."""
    return sqlite.insert(table) if tx.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


def must_have_changed(result: CursorResult[*tuple[Any, ...]], what: str) -> None:
    """Check that a compensation has changed exactly one row.

    Raises:
        RowGone: it has not.
    """
    if result.rowcount != 1:
        raise RowGone(f"{what} is missing, so it cannot be undone")
