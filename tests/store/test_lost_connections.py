"""When the database has ended a connection, work that is safe to repeat is repeated on another one."""

import asyncio
from collections import Counter

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import MarkStuckCommand, Phase, SagaRef
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.store.connections.errors import NoConnectionLeft
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_outbox, saga_step
from orchestrator.store.recovery import UndoAnswer, recorded_sagas, undo_if_still_owned
from orchestrator.store.saga.intervention import Skip, cancel_saga, skip_step
from orchestrator.store.saga.undo import mark_stuck
from orchestrator.transaction import Transaction
from tests.cast import Script, refuses
from tests.cast_events import AtomicMoveRequested, CoinsMoveRequested, NapRequested
from tests.house import CATALOG, Holdings, rows
from tests.orchestrators import AtomicMove, CoinsMove, Nap
from tests.store.lost_answers import answers_to_commits_lost
from tests.store.pacing import Pacer, driver_of

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
END_ALL = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture(autouse=True)
def skip_sqlite(database: Database) -> None:
    """Skip SQLite, whose connections cannot be lost."""
    if database.dialect == "sqlite":
        pytest.skip("SQLite has no connection that another process can end")


async def end_all(database: Database) -> None:
    """End every connection to the database, as a restart does."""
    ending = Database(database.url.render_as_string(hide_password=False))
    async with ending.transaction() as connection:
        await connection.execute(END_ALL)
    await ending.close()


async def test_connections_lost_in_the_pool_are_replaced(stocked: Database) -> None:
    """They are replaced in a driver, in a read and in a transaction."""
    before = await Holdings.of(stocked)

    await end_all(stocked)
    outcome = await driver_of(stocked, CoinsMove, EVENT, "pooled").drive()
    await end_all(stocked)
    after = await Holdings.of(stocked)
    await end_all(stocked)
    async with stocked.transaction() as connection:
        answer = await connection.scalar(text("SELECT 1"))

    assert (Phase.COMPLETED, before.moved("a", "b", 10), 1) == (outcome.phase, after, answer)


async def test_a_step_that_loses_its_connection_is_repeated_and_done_once(stocked: Database) -> None:
    """The connection is lost after the effect was written and before it is committed."""
    before = await Holdings.of(stocked)
    losses = [1]

    async def lose(tx: Transaction) -> None:
        if losses.pop() if losses else 0:
            await end_all(stocked)

    Script.after["put"] = lose

    outcome = await driver_of(stocked, CoinsMove, EVENT, "within").drive()

    assert Phase.COMPLETED is outcome.phase
    assert before.moved("a", "b", 10) == await Holdings.of(stocked)
    assert Script.runs == ["take", "put", "put", "write_note"]


async def test_a_connection_that_is_lost_every_time_raises_after_five_tries(stocked: Database) -> None:
    tries: list[int] = []

    async def lose(connection: AsyncConnection) -> None:
        tries.append(1)
        await end_all(stocked)
        await connection.execute(text("SELECT 1"))

    with pytest.raises(DBAPIError):
        await stocked.in_transaction(lose)

    assert len(tries) == 5


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(
    ("orchestrator", "moves", "steps"),
    [
        (CoinsMove, EVENT, ["take", "put", "write_note"]),
        (AtomicMove, AtomicMoveRequested(source="a", target="b", coins=10), ["count", "take", "put", "write_note"]),
        (Nap, NapRequested(coins=10, seconds=0.01), ["take", "put"]),
    ],
)
async def test_a_saga_that_loses_the_answer_to_every_commit_does_everything_once(
    stocked: Database, orchestrator: type, moves: DomainEvent, steps: list[str], refused: bool
) -> None:
    """Each repeated transaction of the saga, including refusals, waits and undos, finds its own record."""
    before = await Holdings.of(stocked)
    last = steps[-1]
    if refused:
        Script.before[last] = refuses()

    with answers_to_commits_lost(stocked) as lost:
        outcome = await driver_of(stocked, orchestrator, moves, "lossy").drive()

    again = await driver_of(stocked, orchestrator, moves, "lossy").drive()
    assert again == outcome
    after = before.boxes if refused else before.moved("a", "b", 10).boxes
    assert (Phase.FAILED if refused else Phase.COMPLETED, after) == (outcome.phase, (await Holdings.of(stocked)).boxes)
    assert sorted(Counter(Script.runs).values()) == [1] * len(Counter(Script.runs)), Script.runs
    assert set(steps) <= set(Script.runs)
    assert len(lost) >= len(await rows(stocked, saga_step)) + 1
    assert len(await rows(stocked, saga_outbox)) == 1


async def test_decisions_whose_answer_is_lost_are_reported_as_new(stocked: Database) -> None:
    """A repeated skip is not reported as an earlier person's decision; neither is a cancel or recovery's undo."""
    forward = driver_of(stocked, CoinsMove, EVENT, "skipped", ahead := Pacer("before finish"))
    driving = asyncio.create_task(forward.drive())
    await ahead.reached.wait()
    key = saga_id("CoinsMove", "skipped")
    recorded = (await recorded_sagas(stocked, [key]))[key]
    with answers_to_commits_lost(stocked) as lost:
        by_recovery = await undo_if_still_owned(stocked, recorded, "terminated")
        by_person = await cancel_saga(stocked, key, by="olena")
        skip = Skip(saga_id=key, number=2, by="olena", reason="paid by hand")
        skipped = await skip_step(stocked, CATALOG, skip)
    skipped_again = await skip_step(stocked, CATALOG, skip)
    ahead.go_on.set()

    assert (by_recovery, by_person, len(lost)) == (UndoAnswer.UNDOING, Phase.UNDOING, 3)
    assert (skipped.before, skipped_again.before) == (False, True)
    assert Phase.CANCELLED is (await driving).phase


async def test_a_stuck_mark_whose_answer_is_lost_is_set_once_and_can_be_cleared(stocked: Database) -> None:
    driving = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "stuck", stop := Pacer("before step 2")).drive())
    await stop.reached.wait()
    ref = SagaRef(id=saga_id("CoinsMove", "stuck"), orchestrator="CoinsMove", event_id="stuck")
    command = MarkStuckCommand(saga=ref, number=2, error="it fails")
    with answers_to_commits_lost(stocked) as lost:
        await mark_stuck(stocked, CATALOG, command)
        shown = [(row.stuck_step, row.stuck_error) for row in await rows(stocked, saga)]
        await mark_stuck(stocked, CATALOG, command.model_copy(update={"error": None}))

    assert (shown, len(lost)) == ([(2, "it fails")], 2)
    assert [(row.stuck_step, row.stuck_error) for row in await rows(stocked, saga)] == [(None, None)]
    stop.go_on.set()
    assert Phase.COMPLETED is (await driving).phase


async def test_an_operation_that_loses_its_own_connection_is_tried_five_times(stocked: Database) -> None:
    """The attempt then fails, and the next attempt succeeds."""
    elsewhere = Database(stocked.url.render_as_string(hide_password=False))
    tries: list[int] = []

    async def lose(tx: Transaction) -> None:
        tries.append(1)
        async with elsewhere.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            driver.terminate()
            await connection.execute(text("SELECT 1"))

    Script.after["take"] = lose
    with pytest.raises(DBAPIError):
        await driver_of(stocked, CoinsMove, EVENT, "own").drive()
    assert (len(tries), await rows(stocked, saga_step)) == (5, [])

    Script.clear()
    before = await Holdings.of(stocked)
    assert Phase.COMPLETED is (await driver_of(stocked, CoinsMove, EVENT, "own").drive()).phase
    assert before.moved("a", "b", 10) == await Holdings.of(stocked)
    await elsewhere.close()


async def test_an_exhausted_pool_is_reported_with_the_setting_to_change(stocked: Database) -> None:
    few = Database(stocked.url.render_as_string(hide_password=False), pool_size=1)
    few.engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    async with few.transaction():
        with pytest.raises(NoConnectionLeft, match=r"All 1 connections.*ORCHESTRATOR_POOL_SIZE"):
            await few.in_transaction(AsyncConnection.commit)
    await few.close()


async def test_a_connection_opened_while_the_server_was_read_only_is_discarded(stocked: Database) -> None:
    """The server may be a standby that is promoted later, or frozen for a while."""
    frozen = text(f'ALTER DATABASE "{stocked.url.database}" SET default_transaction_read_only = on')
    thawed = text(f'ALTER DATABASE "{stocked.url.database}" RESET default_transaction_read_only')
    before = await Holdings.of(stocked)
    async with stocked.transaction() as connection:
        await connection.execute(frozen)
    worker = Database(stocked.url.render_as_string(hide_password=False))
    driver = driver_of(worker, CoinsMove, EVENT, "frozen")
    with pytest.raises(DBAPIError, match="read-only transaction"):
        await driver.drive()

    async with stocked.transaction() as connection:
        await connection.execute(thawed)
    outcome = await asyncio.gather(driver_of(worker, CoinsMove, EVENT, "frozen").drive(), return_exceptions=True)

    assert [getattr(result, "phase", result) for result in outcome] == [Phase.COMPLETED]
    assert await Holdings.of(stocked) == before.moved("a", "b", 10)
    await worker.close()
