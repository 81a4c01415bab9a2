"""Statements the domains share, which each database spells in its own way, or whose answer must not pass unseen."""

from typing import Any

from sqlalchemy import CursorResult
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel

from orchestrator import Transaction


class ChangedMeanwhile(Exception):
    """What stood in the way of a statement was gone before it could be named. The engine tries the step again."""


class RowGone(Exception):
    """A row that a saga left is not there to be undone. No rule allows that, so a person has to look."""


def insert_into(tx: Transaction, table: type[SQLModel]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows ON CONFLICT, in the database's own dialect."""
    return sqlite.insert(table) if tx.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


def must_have_changed(result: CursorResult[*tuple[Any, ...]], what: str) -> None:
    """Make sure that an undoing found its row.

    Raises:
        RowGone: it did not.
    """
    if result.rowcount != 1:
        raise RowGone(f"{what} is not there to be undone")
