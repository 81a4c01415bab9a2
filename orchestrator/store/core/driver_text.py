"""Compiles the engine's most frequent statements once, and passes them to PostgreSQL's driver as text.

Measured CPU time per statement: 0.14 ms when SQLAlchemy executes a compiled statement, 0.06 ms when the driver gets the
same text and parameters. A step sends two such statements. SQLAlchemy still fires its events and translates errors.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

_Parameter = tuple[str, Any, Callable[[Any], Any] | None]
"""The name of a parameter, its default value, and the function that converts a value for the driver."""

_ENGINE_STATEMENTS: set[str] = set()


def is_engine_statement(text: str) -> bool:
    """Whether a text is one of the engine's own statements, which use only tables whose column types never change."""
    return text in _ENGINE_STATEMENTS


class DriverText:
    """A statement that is sent often and is therefore compiled only once.

    Rows have the driver's own types, so the statement must not read columns whose SQLAlchemy type converts values.

    Args:
        statement: a statement whose parameters are scalars.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: tuple[str, tuple[_Parameter, ...]] | None = None

    async def execute(self, connection: AsyncConnection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute the statement with the values of its parameters by name."""
        if connection.dialect.name == "sqlite":  # waiting for its thread costs far more than the text
            return await connection.execute(self._statement, dict(values))
        text, parameters = self._compiled or self._compile(connection.dialect)
        driver_values = tuple(
            process(values.get(name, default)) if process else values.get(name, default)
            for name, default, process in parameters
        )

        def send(driven: Connection) -> CursorResult[Any]:
            return driven.exec_driver_sql(text, driver_values)

        return await connection.run_sync(send)

    def _compile(self, dialect: Any) -> tuple[str, tuple[_Parameter, ...]]:
        compiled = self._statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        assert isinstance(compiled, SQLCompiler)
        parameters: list[_Parameter] = []
        for name in compiled.positiontup or ():
            bound = compiled.binds[name]
            kind = bound.type.dialect_impl(dialect)
            parameters.append((bound.key, bound.effective_value, kind.bind_processor(dialect)))
        self._compiled = (compiled.string, tuple(parameters))
        _ENGINE_STATEMENTS.add(compiled.string)
        return self._compiled
