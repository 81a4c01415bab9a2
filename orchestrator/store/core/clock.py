"""The database's clock, as an expression for statements that write a time or compare one.

Every time in the engine's tables comes from this clock, so that times can be compared whichever worker wrote them, even
if the workers' own clocks differ. A worker never stores its own clock's time or decides by it; it only measures
durations with `time.monotonic`.

SQLite has no server, so its clock is that of the machine that the process runs on, in milliseconds.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from orchestrator.store.core.columns import UtcTime
from orchestrator.store.core.database import Database

_SQLITE_FORMAT = "'%Y-%m-%d %H:%M:%f000'"
"""The format in which SQLAlchemy stores a `datetime`, with six decimals; `%f` yields only three of them."""
NOW_AS_TEXT = {"postgresql": "statement_timestamp()", "sqlite": f"strftime({_SQLITE_FORMAT}, 'now')"}
"""The SQL of `now()` by dialect, for statements that are written as text."""
_EVALUATED_AS_TEXT = {"postgresql": "clock_timestamp()", "sqlite": NOW_AS_TEXT["sqlite"]}
AHEAD = 10.0
"""Seconds. A stored time further ahead of the database's clock than this must come from another clock."""


class _Now(FunctionElement[datetime]):
    type = UtcTime()
    inherit_cache = True


class _EvaluatedNow(FunctionElement[datetime]):
    type = UtcTime()
    inherit_cache = True


class _NowPlus(FunctionElement[datetime]):
    type = UtcTime()
    inherit_cache = True


def now() -> ColumnElement[datetime]:
    """Return the time at which the statement began.

    This is not PostgreSQL's `now()`, which is the time at which the transaction began, because an operation may run for
    many seconds before the statement that records it. The value is constant within a statement, so a comparison with it
    can use an index.
    """
    return _Now()


def evaluated_now() -> ColumnElement[datetime]:
    """Return the time at which the database evaluates the expression, after the statement has waited for its locks.

    Use it for a time that must not be too early, because the time limit of a call is counted from it. A comparison
    with it cannot use an index.
    """
    return _EvaluatedNow()


def now_plus(seconds: "float | ColumnElement[float]") -> ColumnElement[datetime]:
    """Return `now()` plus a number of seconds, which may be negative or a bound parameter."""
    return _NowPlus(seconds if isinstance(seconds, ColumnElement) else literal(seconds, Float()))


async def read_clock(database: Database) -> datetime:
    """Read the database's clock."""
    async with database.reading() as connection:
        return await clock_of(connection)


async def clock_of(connection: AsyncConnection) -> datetime:
    """Read the database's clock on an open connection."""
    return (await connection.execute(select(now()))).scalar_one()


@compiles(_Now)
def _compile_now(_: _Now, compiler: SQLCompiler, **__: Any) -> str:
    return NOW_AS_TEXT[compiler.dialect.name]


@compiles(_EvaluatedNow)
def _compile_evaluated_now(_: _EvaluatedNow, compiler: SQLCompiler, **__: Any) -> str:
    return _EVALUATED_AS_TEXT[compiler.dialect.name]


@compiles(_NowPlus)
def _compile_now_plus(element: _NowPlus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    if compiler.dialect.name == "sqlite":
        return f"strftime({_SQLITE_FORMAT}, 'now', printf('%+.3f seconds', {seconds}))"
    return f"({NOW_AS_TEXT['postgresql']} + make_interval(secs => {seconds}))"
