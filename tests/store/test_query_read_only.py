"""The database itself prevents a query from writing, even if the text of a statement does not show that it writes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import insert, text

from orchestrator import Transaction, TransactionMisuse, outbox
from orchestrator.protocol.commands import Phase, StepCommand, StepDone
from orchestrator.store.core.database import Database
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.group_commit import run_step_group
from tests.cast import Script, count, fails, note, put, take
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG, Holdings, rows
from tests.store.test_atomic import calling, driver
from tests.store.test_fence import first_step, opening
from tests.store.test_group_commit import opened

Write = Callable[[Transaction], Awaitable[None]]


def sql(statement: str) -> Write:
    """An act that executes a statement in the step's transaction."""

    async def execute(tx: Transaction) -> None:
        await (await tx.connection()).execute(text(statement))

    return execute


async def in_a_savepoint(tx: Transaction) -> None:
    """Write in a savepoint and catch the error, so that the transaction could continue."""
    with contextlib.suppress(Exception):
        async with tx.begin_nested():
            await tx.exec(insert(note).values(id="n", text="written"))


async def to_the_outbox(tx: Transaction) -> None:
    """Add an event, which a query may not do because it may run several times."""
    await outbox.add(tx, CoinsMoveRequested(source="a", target="b", coins=1))


def counting(number: int = 1, event_id: str = "one") -> StepCommand:
    """The command of a step that is a query."""
    opened = opening(event_id)
    return StepCommand(
        saga=opened.saga,
        number=number,
        operation="cast.count",
        arguments={"name": "a"},
        event_time="2026-01-01T00:00:00+00:00",
        opening=opened if number == 1 else None,
    )


ON_EITHER: dict[str, Write] = {
    "an insert": sql("INSERT INTO note (id, text) VALUES ('n', 'written')"),
    "behind a comment": sql("/* only a look */ DELETE FROM note"),
    "a table": sql("CREATE TABLE another (id integer)"),
    "a temporary table": sql("CREATE TEMPORARY TABLE another (id integer)"),
    "caught": in_a_savepoint,
    "an event": to_the_outbox,
}
ON_POSTGRESQL: dict[str, Write] = {
    "a function": sql("SELECT written()"),
    "a function of a function": sql("SELECT sum(x) FROM (SELECT written_within() AS x) AS y"),
    "a procedure": sql("CALL write_it()"),
    "a block": sql("DO $$ BEGIN PERFORM written(); END $$"),
    "a sequence": sql("SELECT nextval('numbers')"),
    "a plan that is executed": sql("EXPLAIN ANALYZE DELETE FROM note"),
    "a locking read": sql("SELECT * FROM note FOR UPDATE"),
    "read-write": sql("SET TRANSACTION READ WRITE"),
    "its savepoint": sql("ROLLBACK TO SAVEPOINT orchestrator_read_only"),
}
ON_SQLITE: dict[str, Write] = {
    "the pragma": sql("PRAGMA query_only = OFF"),
    "the schema's version": sql("PRAGMA user_version = 7"),
}
FUNCTIONS = (
    "CREATE FUNCTION written() RETURNS integer LANGUAGE sql AS "
    "$$ INSERT INTO note (id, text) VALUES ('n', 'written') RETURNING 1 $$",
    "CREATE FUNCTION written_within() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN written(); END $$",
    "CREATE PROCEDURE write_it() LANGUAGE plpgsql AS $$ BEGIN PERFORM written(); END $$",
    "CREATE SEQUENCE numbers",
)


@pytest.fixture
async def with_functions(stocked: Database) -> Database:
    """The database with functions that write; SQLite has none."""
    if stocked.dialect == "postgresql":
        async with stocked.transaction() as connection:
            for function in FUNCTIONS:
                await connection.execute(text(function))
    return stocked


@pytest.mark.parametrize("how", [*ON_EITHER, *ON_POSTGRESQL, *ON_SQLITE])
async def test_a_query_cannot_write_whatever_its_statement_looks_like(with_functions: Database, how: str) -> None:
    own_statements = ON_POSTGRESQL if with_functions.dialect == "postgresql" else ON_SQLITE
    if how not in ON_EITHER | own_statements:
        pytest.skip("this statement exists only on the other database")
    Script.before["count"] = (ON_EITHER | own_statements)[how]

    with pytest.raises(Exception, match=r"only reads|read-write mode inside a read-only"):
        await run_step(with_functions, CATALOG, counting())

    assert await rows(with_functions, note) == []
    assert await rows(with_functions, saga_step) == []
    Script.clear()
    assert await run_step(with_functions, CATALOG, counting()) == StepDone(
        number=1, operation="cast.count", result=1_000
    )


async def test_a_refused_write_is_reported_with_the_correct_form(with_functions: Database) -> None:
    if with_functions.dialect == "sqlite":
        pytest.skip("SQLite has no functions that write")
    Script.before["count"] = sql("SELECT written()")

    with pytest.raises(TransactionMisuse, match=r"cannot execute INSERT .* Make it an @operation with a compensation"):
        await run_step(with_functions, CATALOG, counting())


async def test_a_query_may_use_statements_without_lasting_effects(stocked: Database) -> None:
    async with stocked.transaction() as connection, guarded(connection, "query"):
        result = await connection.execute(
            text("WITH updated AS (SELECT coins FROM box) SELECT max(coins) FROM updated")
        )
        assert result.scalar_one() == 1_000
        assert (await connection.execute(text("SELECT 'insert into note'"))).scalar_one() == "insert into note"
        if stocked.dialect == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(1), pg_notify('channel', 'text')"))


async def test_operations_in_one_transaction_with_a_query_can_write(stocked: Database) -> None:
    calling(take("a", 1), count("a"), put("b", 1))

    outcome = await driver(stocked).drive()

    assert outcome.phase is Phase.COMPLETED
    assert (await Holdings.of(stocked)).boxes == {"a": 999, "b": 1}


async def test_a_query_in_a_group_commit_leaves_the_other_steps_writable(stocked: Database) -> None:
    if stocked.dialect == "sqlite":
        pytest.skip("on SQLite each step has its own transaction")
    first, second, third = await opened(stocked, "one", "two", "three")
    query = second.model_copy(update={"operation": "cast.count", "arguments": {"name": "a"}})

    replies = await run_step_group(stocked, CATALOG, [first, query, third])

    assert replies == [
        StepDone(number=1, operation="cast.take", result=10),
        StepDone(number=1, operation="cast.count", result=990),
        StepDone(number=1, operation="cast.take", result=10),
    ]
    assert (await Holdings.of(stocked)).boxes["a"] == 980


async def test_a_query_that_writes_rolls_back_its_group(with_functions: Database) -> None:
    if with_functions.dialect == "sqlite":
        pytest.skip("on SQLite each step has its own transaction")
    first, second = await opened(with_functions, "one", "two")
    query = second.model_copy(update={"operation": "cast.count", "arguments": {"name": "a"}})
    Script.before["count"] = sql("SELECT written()")

    assert await run_step_group(with_functions, CATALOG, [first, query]) is None

    assert await rows(with_functions, note) == []
    assert (await Holdings.of(with_functions)).boxes["a"] == 1_000


async def test_a_connection_is_writable_again_after_a_cancelled_or_failed_query(stocked: Database) -> None:
    alone = Database(stocked.url.render_as_string(hide_password=False), pool_size=1)
    never = asyncio.Event()
    waiting = asyncio.Event()

    async def waits(tx: Transaction) -> None:
        waiting.set()
        await never.wait()

    Script.before["count"] = waits
    running = asyncio.create_task(run_step(alone, CATALOG, counting()))
    await waiting.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    Script.before["count"] = fails()
    with pytest.raises(RuntimeError):
        await run_step(alone, CATALOG, counting())

    assert await run_step(alone, CATALOG, first_step()) == StepDone(number=1, operation="cast.take", result=10)
    await alone.close()


async def test_a_query_costs_two_round_trips_more_than_an_operation(stocked: Database) -> None:
    """One sets the savepoint together with its read-only mode, and one releases it."""
    if stocked.dialect == "sqlite":
        pytest.skip("SQLite has no round trips")
    sent: list[str] = []

    def log(record: Any) -> None:
        sent.append(record.query)

    async with stocked.transaction() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        driver.add_query_logger(log)
        await connection.execute(text("SELECT 1"))
        sent.clear()
        async with guarded(connection, "operation"):
            pass
        assert sent == []
        async with guarded(connection, "query"):
            pass

    assert [statement.partition(" ")[0] for statement in sent] == ["SAVEPOINT", "RELEASE", "COMMIT;"]
