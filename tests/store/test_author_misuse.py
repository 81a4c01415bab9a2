"""What an author may not do to a step's transaction is refused before it does harm."""

import contextlib
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text, update

from orchestrator import Transaction, TransactionMisuse
from orchestrator.store.core.database import Database
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga.fence import run_step
from tests.cast import Script, box, fails
from tests.house import CATALOG, Holdings, rows
from tests.store.test_fence import first_step


async def commits(tx: Transaction) -> None:
    """Commit through the session."""
    await tx.commit()


async def rolls_back(tx: Transaction) -> None:
    """Roll back through the session."""
    await tx.rollback()


async def commits_beneath(tx: Transaction) -> None:
    """Commit through the connection, bypassing the session."""
    await (await tx.connection()).commit()


async def rolls_back_beneath(tx: Transaction) -> None:
    """Roll back through the connection, bypassing the session."""
    await (await tx.connection()).rollback()


async def commits_in_sql(tx: Transaction) -> None:
    """Commit with an SQL statement."""
    await (await tx.connection()).execute(text("  commit"))


async def commits_behind_a_comment(tx: Transaction) -> None:
    """Commit with an SQL statement that begins with comments."""
    await (await tx.connection()).execute(text("/* all\n done */ -- now\n COMMIT"))


async def rolls_back_in_sql(tx: Transaction) -> None:
    """Roll back with an SQL statement."""
    await (await tx.connection()).execute(text("ROLLBACK"))


async def commits_the_sync_session(tx: Transaction) -> None:
    """Commit through the synchronous session beneath the asynchronous one."""
    await tx.run_sync(lambda session: session.get_bind().commit())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "act",
    [
        commits,
        rolls_back,
        commits_beneath,
        rolls_back_beneath,
        commits_in_sql,
        commits_behind_a_comment,
        rolls_back_in_sql,
        commits_the_sync_session,
    ],
)
async def test_an_operation_that_ends_its_transaction_is_refused_and_has_no_effect(
    stocked: Database, act: Callable[[Transaction], Awaitable[None]]
) -> None:
    before = await Holdings.of(stocked)
    Script.after["take"] = act

    with pytest.raises(TransactionMisuse):
        await run_step(stocked, CATALOG, first_step())

    assert before == await Holdings.of(stocked)
    assert await rows(stocked, saga_step) == []
    Script.clear()
    await run_step(stocked, CATALOG, first_step())
    assert (await Holdings.of(stocked)).boxes["a"] == 990


async def test_an_operation_that_swallows_the_misuse_error_still_fails(stocked: Database) -> None:
    async def swallows(tx: Transaction) -> None:
        with contextlib.suppress(TransactionMisuse):
            await commits_beneath(tx)

    Script.before["take"] = swallows

    with pytest.raises(Exception, match=r"may not commit|closed transaction"):
        await run_step(stocked, CATALOG, first_step())

    assert (await Holdings.of(stocked)).boxes["a"] == 1_000
    assert await rows(stocked, saga_step) == []


async def test_an_operation_may_roll_back_to_its_own_savepoint(stocked: Database) -> None:
    async def rolls_back_to_a_savepoint(tx: Transaction) -> None:
        with contextlib.suppress(RuntimeError):
            async with tx.begin_nested():
                await tx.exec(update(box).values(coins=0))
                await fails()(tx)

    Script.before["take"] = rolls_back_to_a_savepoint

    await run_step(stocked, CATALOG, first_step())

    assert (await Holdings.of(stocked)).boxes["a"] == 990


@pytest.mark.parametrize(
    "writes",
    [
        "UPDATE box SET coins = 0",
        "/* only a look */ UPDATE box SET coins = 0",
        "WITH b AS (SELECT 1) UPDATE box SET coins = 0",
    ],
)
async def test_a_query_that_writes_is_refused(stocked: Database, writes: str) -> None:
    with pytest.raises(TransactionMisuse, match="only reads"):
        async with stocked.transaction() as connection, guarded(connection, "query"):
            await connection.execute(text(writes))

    assert (await Holdings.of(stocked)).boxes["a"] == 1_000


async def test_a_query_may_use_a_common_table_expression(stocked: Database) -> None:
    async with stocked.transaction() as connection, guarded(connection, "query"):
        result = await connection.execute(
            text("WITH updated AS (SELECT coins FROM box) SELECT max(coins) FROM updated")
        )

        assert result.scalar_one() == 1_000
