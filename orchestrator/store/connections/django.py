"""Lets the outbox write through Django's database connection, in the transaction that Django has begun there."""

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.sql.compiler import SQLCompiler

from orchestrator.errors import UsageError

_postgresql: Any = psycopg.dialect
_sqlite: Any = pysqlite.dialect
_DIALECTS: Mapping[str, Dialect] = {
    "postgresql": _postgresql(paramstyle="pyformat"),
    "sqlite": _sqlite(paramstyle="named"),
}
"""By Django's name of the database. Each writes statements for the DB-API module that Django uses."""


@runtime_checkable
class DjangoConnection(Protocol):
    """One of `django.db.connections`."""

    vendor: str
    in_atomic_block: bool
    connection: Any
    """The DB-API connection."""


class DjangoTransaction:
    """The transaction that Django has begun, with those methods of a SQLAlchemy connection that the outbox uses.

    Raises:
        UsageError: no transaction has begun, or the database is neither PostgreSQL nor SQLite.
    """

    def __init__(self, connection: DjangoConnection) -> None:
        if not connection.in_atomic_block:
            raise UsageError(
                "Django commits each statement by itself here, so the event would be sent whatever becomes of the "
                "request. Add it inside `with transaction.atomic():`"
            )
        if connection.vendor not in _DIALECTS:
            raise UsageError(
                f"the outbox is in PostgreSQL or SQLite, and this Django connection is to {connection.vendor}"
            )
        self.dialect = _DIALECTS[connection.vendor]
        self.info: dict[str, Any] = {}
        self._connection = connection.connection

    def execute(self, statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> "DjangoRows":
        """Run one statement."""
        compiled = cast(SQLCompiler, statement.compile(dialect=self.dialect))
        values: dict[str, Any] = {**compiled.params, **(parameters or {})}
        for bind, name in compiled.bind_names.items():
            process = bind.type.dialect_impl(self.dialect).bind_processor(self.dialect)
            if process is not None:
                values[name] = process(values[name])
        cursor = self._connection.cursor()
        try:
            cursor.execute(str(compiled), values)
            return DjangoRows(cursor.fetchall())
        finally:
            cursor.close()


class DjangoRows:
    """The rows of a statement's result."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def first(self) -> Any | None:
        """Return the first row, or None."""
        return self._rows[0] if self._rows else None

    def scalar_one(self) -> Any:
        """Return the only value of the only row."""
        [[value]] = self._rows
        return value
