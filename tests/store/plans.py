"""Records every statement that the engine executes, and what each of them would read of a large table."""

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
"""Instructions of SQLite that a scan may take which ends soon: some ten thousand rows."""
SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan", "Tid Scan")


@dataclass
class Recording:
    """Statements by their text, each with the first parameters that it had and what executed it first."""

    database: Database
    during: str = ""
    statements: dict[str, tuple[Any, str]] = field(default_factory=dict[str, tuple[Any, str]])

    def record(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *others: Any) -> None:
        """SQLAlchemy's `before_cursor_execute`."""
        first = parameters[0] if others[-1] else parameters
        verb = statement.lstrip().split(maxsplit=1)[0].upper()
        if verb in ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH") and "saga" in statement:
            # Another question may have another plan, though its text is the same.
            self.statements.setdefault(f"{statement}\0{self.during}", (first, self.during))


@contextmanager
def recording(database: Database) -> Generator[Recording]:
    """Record what is executed on a database while this is open."""
    made = Recording(database)
    event.listen(database.engine.sync_engine, "before_cursor_execute", made.record)
    try:
        yield made
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", made.record)


async def large_reads(recorded: Recording, *, at_most: int) -> dict[str, list[str]]:
    """Statements that read too much, by what executed them, each with the reason.

    On PostgreSQL each is executed once more and rolled back, because what counts is how many rows a scan really reads:
    an index that is read from end to end is seen, too. On SQLite what counts is that nothing is scanned but to a limit.

    Args:
        recorded: the statements.
        at_most: rows of one table that one statement may read.
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
    # As for an SSD: by default some ten thousand rows are cheaper to scan than five hundred are to look up.
    await connection.execute(text("SET LOCAL random_page_cost = 1.1"))
    # A row that is inserted once more would be there already; an insert reads what it is planned to.
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
    # In the order of the primary key, or of an index, a limit may end a scan soon: then it is tried.
    may_be_short = statement.startswith("SELECT") and "LIMIT" in statement
    is_short = may_be_short and await _steps_on_sqlite(connection, statement, parameters) < _STEPS
    is_index_order = not statement.startswith("SELECT") and "LIMIT" in statement
    return [] if is_short or (is_index_order and all("USING INDEX" in scan for scan in scans)) else scans


async def _steps_on_sqlite(connection: AsyncConnection, statement: str, parameters: Any) -> int:
    """How many instructions SQLite needs."""
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
    """Whether a name in a plan is one of the engine's tables, or an alias of one."""
    tables = [table for table in metadata.tables if table != "saga_meta"]
    return name in tables or any(
        f"{table} AS {name}" in statement or f"{table} AS {name}," in statement for table in tables
    )
