"""An event is in the outbox if and only if the transaction that added it commits."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import create_engine, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Session

from orchestrator import EventRejected, Transaction, UsageError, outbox
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import read, saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox
from orchestrator.store.outbox import NO_SAGA, Target
from orchestrator.store.queries.outbox import waiting, waiting_groups
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.testing import added_events, step_transaction
from tests.cast import Script, note, refuses
from tests.cast_events import CoinsMoveRequested, NothingRequested
from tests.house import CATALOG, eventually, rows
from tests.orchestrators import CoinsMove, Nothing
from tests.store.pacing import driver_of, waits_for_lock

EVENT = NothingRequested(refuse=False)
MOVE = CoinsMoveRequested(source="a", target="b", coins=1)


async def test_an_event_is_written_only_if_the_callers_transaction_commits(database: Database) -> None:
    with pytest.raises(RuntimeError, match="lost"):
        await _add_and_fail(database)
    async with AsyncSession(database.engine) as session, session.begin():
        await session.execute(insert(note).values(id="n", text="with it"))
        event_id = await outbox.add(session, EVENT, key="k")

    [row] = await rows(database, saga_outbox)
    envelope = read(row.envelope)
    assert (row.event_id, row.ordering_key, row.saga_id, row.target) == (event_id, "k", NO_SAGA, Target.LISTENERS)
    assert (row.sent_at, row.attempts, envelope.event_type) == (None, 0, "NOTHING_REQUESTED")
    assert (envelope.correlation_id, UUID(event_id).version) == ("", 7)
    assert len(await rows(database, note)) == 1


async def test_an_event_can_be_added_in_a_synchronous_session(database: Database) -> None:
    if database.dialect != "sqlite":
        pytest.skip("no synchronous driver for PostgreSQL is installed here")
    engine = create_engine(f"sqlite:///{database.url.database}")
    with Session(engine) as session:
        outbox.add_sync(session, EVENT, event_id="one")
        session.commit()
        outbox.add_sync(session, EVENT, event_id="two")
        session.rollback()
    engine.dispose()

    assert [row.event_id for row in await rows(database, saga_outbox)] == ["one"]


async def test_a_repeated_event_id_is_accepted_only_with_the_same_content(database: Database) -> None:
    async with database.transaction() as connection:
        await outbox.add(connection, EVENT, event_id="e")
        await outbox.add(connection, EVENT, event_id="e")
        with pytest.raises(EventRejected, match=r"event\.id_reused"):
            await outbox.add(connection, NothingRequested(refuse=True), event_id="e")

    assert len(await rows(database, saga_outbox)) == 1


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "no event": (lambda tx: outbox.add(tx, "event"), UsageError, "str is not one"),  # type: ignore[arg-type]
    "no transaction": (lambda tx: outbox.add(EVENT, tx), UsageError, "await outbox.add"),  # type: ignore[arg-type]
    "no key": (lambda tx: outbox.add(tx, EVENT, key=""), UsageError, "1 to 512"),
    "no id": (lambda tx: outbox.add(tx, EVENT, event_id="a b"), EventRejected, "event.invalid_id"),
    "no zone": (lambda tx: outbox.add(tx, EVENT, time=datetime(2026, 1, 1)), EventRejected, "no time zone"),  # noqa: DTZ001
    "past its validation": (
        lambda tx: outbox.add(tx, NothingRequested.model_construct(refuse=cast(bool, "yes"))),
        EventRejected,
        "event.invalid",
    ),
    "too large": (
        lambda tx: outbox.add(tx, CoinsMoveRequested(source="a" * 300_000, target="b", coins=1)),
        EventRejected,
        "event.too_large",
    ),
}


async def _add_and_fail(database: Database) -> None:
    async with database.transaction() as connection:
        await outbox.add(connection, EVENT, event_id="lost")
        raise RuntimeError("lost")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("how", BAD)
async def test_an_event_that_the_bus_would_refuse_is_refused_and_not_written(database: Database, how: str) -> None:
    call, error, message = BAD[how]

    async with database.transaction() as connection:
        with pytest.raises(error, match=message):
            await call(connection)

    assert not await rows(database, saga_outbox)


async def test_adding_to_a_database_without_an_outbox_is_refused(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.exec_driver_sql("DROP TABLE saga_outbox")

    async with AsyncSession(database.engine) as session:
        with pytest.raises(UsageError, match="no table saga_outbox"):
            await outbox.add(session, EVENT)


async def test_a_steps_event_is_added_once_with_its_cause_and_survives_the_undo(
    stocked: Database,
) -> None:
    tries: list[str] = []

    async def add_event(tx: Transaction) -> None:
        tries.append(await outbox.add(tx, EVENT, key="k"))
        if len(tries) == 1:
            raise RuntimeError("after it was added")

    Script.after["take"], Script.before["put"] = add_event, refuses()
    first = wrap(MOVE, event_id="first", source="tests")
    envelope = wrap(MOVE, event_id="e", source="tests", because=first)
    with pytest.raises(RuntimeError):
        await Driver(CoinsMove, MOVE, envelope, StoreSteps(stocked, CATALOG)).drive()
    assert not await rows(stocked, saga_outbox)

    outcome = await Driver(CoinsMove, MOVE, envelope, StoreSteps(stocked, CATALOG)).drive()

    assert outcome.phase is Phase.FAILED
    [row] = [row for row in await rows(stocked, saga_outbox) if row.target]
    added = read(row.envelope)
    assert tries == [row.event_id] * 2
    assert (added.correlation_id, added.causation_id, added.source) == ("first", "e", "orchestrator/CoinsMove")
    assert (row.saga_id, row.ordering_key, row.sent_at) == (saga_id("CoinsMove", "e"), "k", None)


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_transactions_that_add_to_one_key_are_serialized(database: Database) -> None:
    """Otherwise the transaction that began first might become visible last, and its event would be sent last."""
    written, go_on = asyncio.Event(), asyncio.Event()

    async def early() -> None:
        async with database.transaction() as connection:
            await outbox.add(connection, EVENT, key="k", event_id="early")
            written.set()
            await go_on.wait()

    async def late() -> None:
        async with database.transaction() as connection:
            await outbox.add(connection, EVENT, key="k", event_id="late")

    first = asyncio.create_task(early())
    await written.wait()
    second = asyncio.create_task(late())
    await eventually(lambda: waits_for_lock(database), "the second transaction waits")
    async with database.transaction() as connection:
        await outbox.add(connection, EVENT, key="another", event_id="beside")
    go_on.set()
    await asyncio.gather(first, second)

    assert [row.event_id for row in await rows(database, saga_outbox)] == ["early", "beside", "late"]


async def test_a_unit_test_of_one_operation_can_read_the_added_events() -> None:
    async with step_transaction(event_id="e") as tx:
        event_id = await outbox.add(tx, EVENT)
        again = await outbox.add(tx, EVENT)

        added = await added_events(tx)
        assert [envelope.event_id for envelope in added] == [event_id, again]
        assert {envelope.causation_id for envelope in added} == {"e"}


async def test_an_outcome_without_listeners_is_written_as_already_sent(stocked: Database) -> None:
    notified: list[str] = []
    stocked.when_outbox_filled.add(lambda: notified.append("filled"))

    await driver_of(stocked, Nothing, EVENT, "e").drive()

    [row] = await rows(stocked, saga_outbox)
    assert row.sent_at is not None
    assert (await waiting(stocked)).count == 0
    assert notified == []


async def test_waiting_events_are_counted_by_type_and_key(database: Database) -> None:
    async with database.transaction() as connection:
        for _ in range(2):
            await outbox.add(connection, EVENT, key="k")
        await outbox.add(connection, MOVE)

    groups = await waiting_groups(database, limit=10)

    assert [(group.event_type, group.key, group.count) for group in groups] == [
        ("NOTHING_REQUESTED", "k", 2),
        ("COINS_MOVE_REQUESTED", None, 1),
    ]
    assert (await waiting(database)).count == 3
