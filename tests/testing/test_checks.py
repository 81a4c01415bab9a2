"""The kit's checks after a cell: each one detects its problem, on both databases."""

import asyncio

import pytest
from sqlalchemy import insert

from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_lock, saga_outbox
from orchestrator.testing.conformance.checks import nothing_open, one_outcome
from orchestrator.testing.conformance.reference import State, read_rows
from orchestrator.testing.example import Equality, Row
from tests import cast
from tests.cast_events import CoinsMoveRequested, TurnTakingRequested
from tests.orchestrators import CoinsMove, TurnTaking
from tests.store.pacing import Pacer, driver_of

MOVE = CoinsMoveRequested(source="a", target="b", coins=10)
KEY = saga_id("CoinsMove", "one")


async def test_an_open_transaction_is_seen(database: Database) -> None:
    assert await nothing_open(database) == []

    async with database.transaction() as connection:
        await cast.stock(connection, a=1)
        found = await nothing_open(database, within=0.2)

    assert any("still open" in told or "a writer still holds" in told for told in found), found
    assert await nothing_open(database) == []


async def test_a_ticket_for_a_lock_is_seen(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(insert(saga_lock).values(key="user/olena", ticket=1, saga_id=KEY))

    assert await nothing_open(database) == ["the lock user/olena is still held"]


async def test_locks_are_held_between_two_steps_and_by_nobody_at_the_end(database: Database) -> None:
    async with database.transaction() as connection:
        await cast.stock(connection, a=100, b=0)
    pacer = Pacer("after step 1")
    taking = TurnTakingRequested(keys=("user/olena",), ordering_key="order/1")
    driving = asyncio.create_task(driver_of(database, TurnTaking, taking, "one", pacer).drive())
    async with asyncio.timeout(20):
        await pacer.reached.wait()

    between = await nothing_open(database)
    pacer.go_on.set()
    await driving

    assert sorted(between) == ["the lock order/1 is still held", "the lock user/olena is still held"]
    assert await nothing_open(database) == []


async def test_a_second_event_in_the_outbox_is_seen(database: Database) -> None:
    async with database.transaction() as connection:
        await cast.stock(connection, a=100, b=0)
    outcome = await driver_of(database, CoinsMove, MOVE, "one").drive()
    assert await one_outcome(database, KEY, [outcome]) == ([], outcome.phase)

    async with database.transaction() as connection:
        await connection.execute(insert(saga_outbox).values(event_id="other", saga_id=KEY, envelope="{}"))
    wrong, _ = await one_outcome(database, KEY, [outcome.model_copy(update={"message": "another"})])

    assert wrong == [
        "the outbox has 2 outcome events of the saga, but must have exactly one",
        "the outbox has another outcome: {}",
        "a driver returned another outcome: completed, None",
    ]


async def test_a_saga_that_is_still_open_and_one_that_never_was_are_seen(database: Database) -> None:
    async with database.transaction() as connection:
        await cast.stock(connection, a=100, b=0)
    assert await one_outcome(database, KEY, []) == (["the saga has no row"], None)
    pacer = Pacer()
    driver = driver_of(database, CoinsMove, MOVE, "one", pacer)
    cast.Script.before["put"] = cast.fails()
    cast.Script.before["give_back"] = cast.fails(1)
    with pytest.raises(RuntimeError):
        await driver.drive()

    wrong, phase = await one_outcome(database, KEY, [])

    assert wrong == ["the saga is still open: undoing"]
    assert phase == "undoing"


async def test_states_are_compared_by_rows_and_by_what_counts(database: Database) -> None:
    async def state(equality: Equality) -> State:
        async with database.reading() as connection:
            return State(await read_rows(connection, [cast.box], equality))

    def in_tens(_: str, row: Row) -> Row | None:
        return None if row["name"] == "c" else {"name": row["name"], "tens": row["coins"] // 10}

    ways = [Equality(), Equality(ignore_columns={"box": {"coins"}}), Equality(ignore_tables={"box"})]
    ways += [Equality(ignore_columns={"box": {"name"}}), Equality(normalise=in_tens)]
    async with database.transaction() as connection:
        await cast.stock(connection, a=100, b=0)
    before = [await state(equality) for equality in ways]
    async with database.transaction() as connection:
        await connection.execute(cast.box.update().where(cast.box.c.name == "a").values(coins=101))
        await connection.execute(insert(cast.box).values(name="c", coins=7))

    found = [old.differences(await state(equality)) for old, equality in zip(before, ways, strict=True)]

    assert found == [
        ["box a: coins is 101 and must be 100", "box c must not be there: {coins=7, name='c'}"],
        ["box c must not be there: {name='c'}"],
        [],
        ["box is missing: {coins=100}", "box must not be there: {coins=101}", "box must not be there: {coins=7}"],
        [],
    ]
