"""The database's clock, as an expression in the statements that write a time or compare one.

Every time in the engine's tables comes from this clock, so that it can be compared whichever worker wrote it and
whatever the clocks of the workers say. A worker's own clock is used for nothing that is stored or decided; it measures
durations with `time.monotonic`.

SQLite has no server. Its clock is the clock of the machine that the file is on, to the millisecond.
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
"""What SQLAlchemy writes for a `datetime`: six digits of a second. `%f` gives seconds and milliseconds."""
NOW_AS_TEXT = {"postgresql": "statement_timestamp()", "sqlite": f"strftime({_SQLITE_FORMAT}, 'now')"}
"""`now()` by dialect, for statements that are written as text."""
_EVALUATED_AS_TEXT = {"postgresql": "clock_timestamp()", "sqlite": NOW_AS_TEXT["sqlite"]}
AHEAD = 10.0
"""Seconds. A stored time that is further ahead of the database's clock than this was written by another clock."""


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
    """The time at which the statement began.

    Not PostgreSQL's `now()`, which is the time at which the transaction began: an operation may run for many seconds
    between that and the statement that records it. It is the same throughout a statement, so an index can be used.
    """
    return _Now()


def evaluated_now() -> ColumnElement[datetime]:
    """The time at which the database evaluates the expression, after the statement has waited for its locks.

    For a moment that must not lie too early, because it is counted from then how long a call may still be under way.
    No index can be used to compare with it.
    """
    return _EvaluatedNow()


def now_plus(seconds: "float | ColumnElement[float]") -> ColumnElement[datetime]:
    """`now()` plus a number of seconds, which may be negative or a bound parameter."""
    return _NowPlus(seconds if isinstance(seconds, ColumnElement) else literal(seconds, Float()))


async def read_clock(database: Database) -> datetime:
    """What the database's clock says now."""
    async with database.reading() as connection:
        return await clock_of(connection)


async def clock_of(connection: AsyncConnection) -> datetime:
    """What the database's clock says now, in a transaction that is open."""
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
