"""`step_transaction` runs one operation in a test, without a server, in milliseconds."""

import pytest
from sqlmodel import select

from orchestrator import TransactionMisuse
from orchestrator.testing import step_transaction
from tests import cast
from tests.cast import box


async def test_an_operation_runs_on_the_tests_own_tables() -> None:
    async with step_transaction(cast.tables) as tx:
        await tx.exec(box.insert().values(name="a", coins=5))

        assert await cast.take.body(tx, "a", 2) == 2

        assert (await tx.exec(select(box.c.coins))).one() == 3


async def test_each_transaction_starts_with_empty_tables() -> None:
    for _ in range(2):
        async with step_transaction(cast.tables) as tx:
            await tx.exec(box.insert().values(name="a", coins=5))


async def test_a_step_transaction_refuses_what_an_operation_may_not_do() -> None:
    with pytest.raises(TransactionMisuse):
        async with step_transaction(cast.tables) as tx:
            await tx.commit()
