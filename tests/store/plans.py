"""Records every statement that the engine executes, and finds those that read too much of a large table."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import metadata

_STEPS = 200_000
"""SQLite instructions that a scan with a limit may take, enough for some ten thousand rows."""
SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan", "Tid Scan")


@dataclass
class Recording:
    """Statements by their text, each with its first parameters and the name of what executed it first."""

    database: Database
    during: str = ""
    statements: dict[str, tuple[Any, str]] = field(default_factory=dict[str, tuple[Any, str]])

    def record(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *others: Any) -> None:
        """Handle SQLAlchemy's `before_cursor_execute`."""
        first = parameters[0] if others[-1] else parameters
        verb = statement.lstrip().split(maxsplit=1)[0].upper()
        if verb in ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH") and "saga" in statement:
            # The same text may have another plan when something else executes it.
            self.statements.setdefault(f"{statement}\0{self.during}", (first, self.during))


@contextmanager
def recording(database: Database) -> Generator[Recording]:
    """Record the statements that are executed on a database within the context."""
    recorded = Recording(database)
    event.listen(database.engine.sync_engine, "before_cursor_execute", recorded.record)
    try:
        yield recorded
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", recorded.record)


async def large_reads(recorded: Recording, *, at_most: int) -> dict[str, list[str]]:
    """Statements that read too much, each with the reason, by the name of what executed them.

    On PostgreSQL each statement is executed again and rolled back, to count the rows that its scans really read; this
    also finds an index that is read from end to end. On SQLite every scan without a limit is reported.

    Args:
        recorded: the recorded statements.
        at_most: number of rows of one table that one statement may read.
    """
    found: dict[str, list[str]] = {}
    for key, (parameters, during) in recorded.statements.items():
        statement = key.partition("\0")[0]
        async with recorded.database.engine.connect() as connection:
            transaction = await connection.begin()
            look = _read_on_postgresql if recorded.database.dialect == "postgresql" else _scanned_on_sqlite
            reasons = await look(connection, statement, parameters, at_most)
            await transaction.rollback()
        if reasons:
            found.setdefault(during, []).append(f"{'; '.join(reasons)}\n{statement}")
    return found


async def _read_on_postgresql(connection: AsyncConnection, statement: str, parameters: Any, at_most: int) -> list[str]:
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    # The value for an SSD. With the default, scanning ten thousand rows costs less than looking up five hundred.
    await connection.execute(text("SET LOCAL random_page_cost = 1.1"))
    # An insert is only planned, because executing it again would violate a unique key.
    analyze = "" if statement.lstrip().upper().startswith("INSERT") else "ANALYZE, TIMING OFF,"
    explain = f"EXPLAIN ({analyze} FORMAT JSON) {statement}"
    explained = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
    plans = json.loads(explained) if isinstance(explained, str) else explained
    return [
        f"{node['Node Type']} of {node.get('Relation Name', node.get('Index Name'))} reads {rows:.0f} rows"
        for node in _nodes(plans[0]["Plan"])
        if node["Node Type"] in SCANS and (rows := _rows_read(node)) > at_most
    ]


def _nodes(plan: dict[str, Any]) -> Generator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)


def _rows_read(node: dict[str, Any]) -> float:
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node.get("Actual Rows", node["Plan Rows"]) + removed) * node.get("Actual Loops", 1))


async def _scanned_on_sqlite(connection: AsyncConnection, statement: str, parameters: Any, _at_most: int) -> list[str]:
    rows = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all()
    scans = [
        row.detail for row in rows if row.detail.startswith("SCAN") and _is_of_engine(statement, row.detail.split()[1])
    ]
    # A limit may end a scan early if the scan follows the primary key or an index, so the statement is executed.
    may_be_short = statement.startswith("SELECT") and "LIMIT" in statement
    is_short = may_be_short and await _steps_on_sqlite(connection, statement, parameters) < _STEPS
    is_index_order = not statement.startswith("SELECT") and "LIMIT" in statement
    return [] if is_short or (is_index_order and all("USING INDEX" in scan for scan in scans)) else scans


async def _steps_on_sqlite(connection: AsyncConnection, statement: str, parameters: Any) -> int:
    """Number of instructions that SQLite needs for a statement."""
    raw: Any = (await connection.get_raw_connection()).driver_connection
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    await raw.set_progress_handler(count, 100)
    await connection.exec_driver_sql(f"SELECT count(*) FROM ({statement})", parameters)
    await raw.set_progress_handler(None, 0)
    return steps


def _is_of_engine(statement: str, name: str) -> bool:
    """Whether a name in a plan is one of the engine's tables or an alias of one."""
    tables = [table for table in metadata.tables if table != "saga_meta"]
    return name in tables or any(
        f"{table} AS {name}" in statement or f"{table} AS {name}," in statement for table in tables
    )
