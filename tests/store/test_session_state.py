"""What an operation changes in its database session affects neither other steps nor the engine's own statements."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from orchestrator import Transaction
from orchestrator.protocol.commands import BeginUndoCommand, Phase, StepDone, StepRefused, UndoCommand, Undone
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.group_commit import run_step_group
from orchestrator.store.saga.undo import begin_undo, undo_step
from tests import cast
from tests.cast import Act, Script, refuses
from tests.conftest import new_database
from tests.house import CATALOG, Holdings, rows
from tests.orchestrators import AtomicMove
from tests.store.pacing import driver_of
from tests.store.pgbouncer import PGBOUNCER, behind, pgbouncer
from tests.store.test_atomic import EVENT
from tests.store.test_fence import first_step, opening
from tests.store.test_group_commit import opened
from tests.store.test_query_read_only import counting, sql


async def sets_by_function(tx: Transaction) -> None:
    """Set the search_path as SQLAlchemy compiles it, with all three arguments as parameters."""
    await (await tx.connection()).execute(select(func.set_config("search_path", "other, public", False)))


ON_POSTGRESQL: dict[str, Act] = {
    "a search_path": sql("SET search_path = other, public"),
    "behind a comment": sql("/* tenant */ set session search_path to other, public"),
    "a search_path without the engine's tables": sql("SET search_path = other"),
    "a transaction's search_path": sql("SET LOCAL search_path = other"),
    "a schema": sql("SET SCHEMA 'other'"),
    "a function": sets_by_function,
    "a function in SQL": sql("SELECT set_config('search_path', 'other', true)"),
    "a block": sql("DO $$ BEGIN PERFORM set_config('search_path', 'other', false); END $$"),
    "a role": sql("SET ROLE tenant"),
    "a transaction's role": sql("SET LOCAL ROLE tenant"),
    "read-only": sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
    "a temporary table": sql("CREATE TEMPORARY TABLE box AS SELECT 'a' AS name, 0 AS coins"),
    "in the temporary schema": sql("CREATE TABLE pg_temp.box (name text, coins integer)"),
    "selected into": sql("SELECT * INTO TEMP box FROM public.box"),
    "a prepared statement": sql("PREPARE one AS SELECT 1"),
}
ON_SQLITE: dict[str, Act] = {
    "a temporary table": sql("CREATE TEMP TABLE box AS SELECT 'a' AS name, 0 AS coins"),
    "a pragma": sql("PRAGMA defer_foreign_keys = ON"),
    "attached": sql("ATTACH DATABASE ':memory:' AS other"),
}


@pytest.fixture
async def tenants(stocked: Database) -> AsyncGenerator[Database]:
    """A database with another schema that has a table `box`, and with a role that may not use the engine's tables."""
    if stocked.dialect == "postgresql":
        async with stocked.transaction() as connection:
            await connection.execute(text("CREATE SCHEMA other CREATE TABLE box (name text, coins integer)"))
            await connection.execute(text("CREATE ROLE tenant"))
    yield stocked
    if stocked.dialect == "postgresql":
        async with stocked.transaction() as connection:
            await connection.execute(text("DROP ROLE tenant"))


def ways_of(database: Database) -> dict[str, Act]:
    return ON_POSTGRESQL if database.dialect == "postgresql" else ON_SQLITE


async def result_of(database: Database, event_id: str) -> object:
    """The result of a saga's first step, or the error that it raised."""
    try:
        reply = await run_step(database, CATALOG, first_step(event_id))
    except Exception as fault:
        return fault
    return reply.result if isinstance(reply, StepDone) else reply


async def test_session_state_of_a_step_diverts_no_other_step(tenants: Database) -> None:
    coins = 1_000
    for number, (how, act) in enumerate(ways_of(tenants).items()):
        Script.after["take"] = act
        assert await result_of(tenants, f"first-{number}") == 10, how
        Script.clear()
        assert await result_of(tenants, f"second-{number}") == 10, how
        coins -= 20
        assert (await Holdings.of(tenants)).boxes["a"] == coins, how
        assert len(await rows(tenants, saga_step)) == 2 * (number + 1), how


@pytest.mark.parametrize("how", ["a transaction's search_path", "a temporary table"])
async def test_session_state_of_a_step_diverts_no_step_of_its_group(tenants: Database, how: str) -> None:
    if tenants.dialect == "sqlite":
        pytest.skip("on SQLite each step has its own transaction")
    commands = await opened(tenants, "one", "two")

    async def act_on_the_first(tx: Transaction) -> None:
        if tx.event_id == "one":
            await ON_POSTGRESQL[how](tx)

    Script.after["take"] = act_on_the_first

    assert await run_step_group(tenants, CATALOG, commands) is None
    for command in commands:
        await run_step(tenants, CATALOG, command)

    assert (await Holdings.of(tenants)).boxes["a"] == 980


async def test_session_state_of_a_compensation_diverts_no_other_step(tenants: Database) -> None:
    for number, (how, act) in enumerate(ways_of(tenants).items()):
        step = first_step(f"first-{number}")
        await run_step(tenants, CATALOG, step)
        begin_undo_command = BeginUndoCommand(
            opening=opening(f"first-{number}"), ends_as=Phase.FAILED, error_code="a.b", message="undone"
        )
        await begin_undo(tenants, CATALOG, begin_undo_command)
        Script.after["give_back"] = act

        undo = UndoCommand(saga=step.saga, number=1, operation=step.operation, event_time=step.event_time)
        assert isinstance(await undo_step(tenants, CATALOG, undo), Undone), how
        await run_step(tenants, CATALOG, first_step(f"second-{number}"))

        assert (await Holdings.of(tenants)).boxes["a"] == 1_000 - 10 * (number + 1), how


@pytest.mark.parametrize("how", ["a search_path", "a role"])
async def test_session_state_of_one_call_diverts_no_other_call_of_an_atomic_step(tenants: Database, how: str) -> None:
    if tenants.dialect == "sqlite":
        pytest.skip("SQLite has neither a search_path nor roles")
    Script.after["take"] = ON_POSTGRESQL[how]

    outcome = await driver_of(tenants, AtomicMove, EVENT, "one").drive()

    assert outcome.phase is Phase.COMPLETED
    assert (await Holdings.of(tenants)).boxes == {"a": 990, "b": 10}


async def test_a_session_level_advisory_lock_ends_with_its_step(stocked: Database) -> None:
    if stocked.dialect == "sqlite":
        pytest.skip("SQLite has no advisory locks")
    Script.before["take"] = sql("SELECT pg_advisory_lock(7)")
    await run_step(stocked, CATALOG, first_step("one"))
    Script.after["take"] = refuses()
    assert isinstance(await run_step(stocked, CATALOG, first_step("two")), StepRefused)
    Script.clear()
    Script.before["count"] = sql("SELECT pg_try_advisory_lock_shared(7)")
    await run_step(stocked, CATALOG, counting(event_id="three"))

    async with stocked.reading() as connection:
        held = await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
    assert held == 0


async def test_a_connection_whose_pragma_makes_steps_fail_is_discarded(stocked: Database) -> None:
    if stocked.dialect == "postgresql":
        pytest.skip("PostgreSQL has no pragmas")
    Script.after["take"] = sql("PRAGMA query_only = ON")
    with pytest.raises(DBAPIError):
        await run_step(stocked, CATALOG, first_step("one"))
    Script.clear()

    assert isinstance(await run_step(stocked, CATALOG, first_step("one")), StepDone)


async def test_a_connection_is_kept_after_changes_that_end_with_the_transaction(stocked: Database) -> None:
    if stocked.dialect == "sqlite":
        pytest.skip("SQLite has no settings that end with the transaction")
    for statement in (
        "SET LOCAL search_path = public",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SELECT set_config('app.tenant', 'one', true)",
        "CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT 1 AS id",
        "SELECT pg_advisory_xact_lock(7)",
    ):
        Script.after["take"] = sql(statement)
        before = await server_process(stocked)
        await run_step(stocked, CATALOG, first_step(f"event-{len(Script.runs)}"))
        assert await server_process(stocked) == before, statement


async def server_process(database: Database) -> int:
    """Process id of the server for the connection that is used next."""
    async with database.reading() as connection:
        pid: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    return pid


@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt-get install pgbouncer)")
async def test_through_a_pooler_the_engine_keeps_the_schema_of_its_url(
    request: pytest.FixtureRequest, postgres: str, tmp_path: Path
) -> None:
    direct = Database(await new_database(request, "postgresql", tmp_path, empty=True))
    async with direct.transaction() as connection:
        await connection.execute(text("CREATE SCHEMA shop"))
        await connection.execute(text("CREATE SCHEMA other CREATE TABLE box (name text, coins integer)"))
    async with pgbouncer(behind(direct), "transaction", connections=2) as url:
        pooled = Database(f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3Dshop")
        await migrate(pooled, application=cast.tables)
        async with pooled.transaction() as connection:
            await cast.stock(connection, a=1_000, b=0)
        for number, how in enumerate(("SET LOCAL search_path = other", "SET search_path = other")):
            Script.after["take"] = sql(how)
            assert isinstance(await run_step(pooled, CATALOG, first_step(f"event-{number}")), StepDone)
        assert (await Holdings.of(pooled)).boxes["a"] == 980
        await pooled.close()
    await direct.close()
