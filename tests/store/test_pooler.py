"""The engine through PgBouncer, in session and transaction mode, with more clients than server connections."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
import pytest
from sqlalchemy import text

from orchestrator import Transaction, TransactionMisuse
from orchestrator.errors import Unreachable
from orchestrator.protocol.commands import Phase, StepDone
from orchestrator.store.connections.pooler import PooledConnection
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.migrations.index_building import build_missing_indexes
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.saga.fence import run_step
from tests import cast
from tests.cast import Script
from tests.cast_events import CoinsMoveRequested
from tests.conftest import new_database
from tests.house import CATALOG, Holdings, rows
from tests.orchestrators import CoinsMove
from tests.store.pacing import driver_of
from tests.store.pgbouncer import PGBOUNCER, Mode, behind, pgbouncer
from tests.store.test_fence import first_step
from tests.store.test_query_read_only import counting

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed (apt-get install pgbouncer)")
IGNORING = (
    "ignore_startup_parameters = statement_timeout, lock_timeout, idle_in_transaction_session_timeout, "
    "tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count"
)
TIMEOUTS = text(
    "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
    "current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')"
)
EVENT = CoinsMoveRequested(source="a", target="b", coins=1)


@pytest.fixture
async def direct(request: pytest.FixtureRequest, postgres: str, tmp_path: Path) -> AsyncGenerator[Database]:
    """The database without PgBouncer, with a thousand coins in box `a`."""
    database = Database(await new_database(request, "postgresql", tmp_path))
    async with database.transaction() as connection:
        await cast.stock(connection, a=1_000, b=0)
    yield database
    await database.close()


@pytest.fixture(params=["session", "transaction"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """PgBouncer's `pool_mode`."""
    mode: Mode = request.param
    return mode


@pytest.fixture(params=["refused", "ignored"])
def settings(request: pytest.FixtureRequest) -> str:
    """PgBouncer's setting for unknown startup parameters: refuse them, which is the default, or ignore them."""
    return IGNORING if request.param == "ignored" else ""


@pytest.fixture
async def pooled(direct: Database, mode: Mode, settings: str) -> AsyncGenerator[Database]:
    """The same database through PgBouncer."""
    async with pgbouncer(behind(direct), mode, connections=20 if mode == "session" else 3, settings=settings) as url:
        database = Database(url)
        yield database
        await database.close()


async def test_sagas_through_pgbouncer_complete_and_move_their_coins_once(direct: Database, pooled: Database) -> None:
    drivers = [driver_of(pooled, CoinsMove, EVENT, f"saga-{number}") for number in range(30)]

    outcomes = await asyncio.gather(*(driver.drive() for driver in drivers))

    assert {outcome.phase for outcome in outcomes} == {Phase.COMPLETED}
    assert (await Holdings.of(direct)).boxes == {"a": 970, "b": 30}


async def test_each_transaction_has_the_timeouts_and_leaves_none_to_another_client(
    direct: Database, pooled: Database
) -> None:
    for _ in range(3):
        async with pooled.transaction() as connection:
            assert tuple((await connection.execute(TIMEOUTS)).one()) == ("20s", "10s", "10s", "orchestrator")

    async with pooled.engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        assert tuple((await connection.execute(TIMEOUTS)).one())[:3] == ("0", "0", "0")


async def test_no_prepared_statement_stays_on_a_server_connection(pooled: Database) -> None:
    await run_step(pooled, CATALOG, first_step())

    async with pooled.transaction() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))).scalar_one() == 0


async def test_a_column_whose_type_changes_is_read_with_the_new_type(direct: Database, pooled: Database) -> None:
    """A cached row description would read the eight bytes of a float as an integer."""
    read = text("SELECT coins FROM box WHERE name = 'a'")
    async with direct.transaction() as connection:
        await connection.execute(text("ALTER TABLE box ALTER COLUMN coins TYPE bigint"))
    async with pooled.transaction() as connection:
        assert (await connection.execute(read)).scalar_one() == 1_000
    async with direct.transaction() as connection:
        await connection.execute(text("ALTER TABLE box ALTER COLUMN coins TYPE double precision"))

    async with pooled.transaction() as connection:
        assert (await connection.execute(read)).scalar_one() == 1_000.0


async def test_a_query_through_pgbouncer_is_read_only_and_recorded(direct: Database, pooled: Database) -> None:
    async def writes(tx: Transaction) -> None:
        await (await tx.connection()).execute(text("UPDATE box SET coins = 0"))

    Script.before["count"] = writes
    with pytest.raises(TransactionMisuse):
        await run_step(pooled, CATALOG, counting())
    Script.clear()

    assert await run_step(pooled, CATALOG, counting()) == StepDone(number=1, operation="cast.count", result=1_000)
    assert (await Holdings.of(direct)).boxes["a"] == 1_000


async def test_several_workers_migrate_through_pgbouncer_at_once(
    request: pytest.FixtureRequest, postgres: str, mode: Mode, tmp_path: Path
) -> None:
    empty = await new_database(request, "postgresql", tmp_path, empty=True)
    async with pgbouncer(empty, mode) as url:
        workers = [Database(url) for _ in range(3)]

        await asyncio.gather(*(migrate(worker, application=cast.tables) for worker in workers))

        assert await rows(workers[0], saga_step) == []
        for worker in workers:
            await worker.close()


async def test_a_step_whose_server_connection_is_lost_is_done_once(direct: Database, pooled: Database) -> None:
    async def lose_connection(tx: Transaction) -> None:
        if Script.runs.count("take") == 1:
            connection = await tx.connection()
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            async with direct.transaction() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    Script.after["take"] = lose_connection

    await run_step(pooled, CATALOG, first_step())

    assert Script.runs == ["take", "take"]
    assert (await Holdings.of(direct)).boxes["a"] == 990


async def test_statement_mode_is_refused_and_the_setting_is_named(direct: Database) -> None:
    async with pgbouncer(behind(direct), "statement") as url:
        database = Database(url)
        with pytest.raises(Unreachable, match="pool_mode"):
            await database.check()
        await database.close()


async def test_a_direct_connection_keeps_its_prepared_statements_and_settings(direct: Database) -> None:
    async with direct.transaction() as connection:
        raw = await connection.get_raw_connection()
        assert type(raw.driver_connection) is not PooledConnection
        assert tuple((await connection.execute(TIMEOUTS)).one()) == ("20s", "10s", "10s", "orchestrator")
        prepared = (await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))).scalar_one()
        assert prepared > 0


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
@pytest.mark.parametrize("settings", ["refused"], indirect=True)
async def test_building_an_index_through_pgbouncer_leaves_no_settings_behind(
    direct: Database, pooled: Database
) -> None:
    async with direct.transaction() as connection:
        await connection.execute(text(f'ALTER DATABASE "{direct.url.database}" SET statement_timeout = 7000'))
        await connection.execute(text("DROP INDEX ix_saga_stuck"))

    assert await build_missing_indexes(pooled) == ["ix_saga_stuck"]
    await pooled.close()

    driver: Any = asyncpg
    sessions = [await driver.connect(pooled_url(pooled), statement_cache_size=0) for _ in range(3)]
    for session in sessions:
        await session.execute("BEGIN")  # so that each session has its own connection to the server
    timeouts = [await session.fetchval("SELECT current_setting('statement_timeout')") for session in sessions]
    await asyncio.gather(*(session.close() for session in sessions))
    assert timeouts == ["7s"] * 3


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
@pytest.mark.parametrize("settings", ["refused"], indirect=True)
async def test_a_missing_index_is_built_in_the_schema_that_the_url_names(direct: Database, pooled: Database) -> None:
    async with direct.transaction() as connection:
        await connection.execute(text("CREATE SCHEMA apart"))
    apart = Database(f"{pooled_url(pooled)}?options=-csearch_path%3Dapart")
    await migrate(apart)
    async with direct.transaction() as connection:
        await connection.execute(text("DROP INDEX apart.ix_saga_stuck"))
        public_index = await connection.scalar(text("SELECT 'public.ix_saga_stuck'::regclass::oid"))

    assert await build_missing_indexes(apart) == ["ix_saga_stuck"]

    assert await build_missing_indexes(apart) == []
    async with direct.reading() as connection:
        assert await connection.scalar(text("SELECT 'public.ix_saga_stuck'::regclass::oid")) == public_index
    await apart.close()


def pooled_url(database: Database) -> str:
    """The URL of a database that is reached through PgBouncer."""
    return database.url.set(drivername="postgresql").render_as_string(hide_password=False)
