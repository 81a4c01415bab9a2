"""What retention deletes and keeps, and that a driver that is months late still changes nothing."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, text, update
from temporalio.client import Client

from orchestrator.drive.driver import EventIdReused
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.messages.envelope import read, saga_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_outbox, saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.retention import Purge, purge_some, purgeable
from orchestrator.worker import retention as worker_retention
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from orchestrator.worker.retention import sweep
from tests import cast as tests_cast
from tests.cast import Script, refuses
from tests.cast_events import CoinsMoveRequested, TippedRequested, TurnTakingRequested
from tests.conftest import KINDS, Kind, new_database
from tests.house import CATALOG, Holdings, eventually, rows
from tests.orchestrators import CoinsMove, Tipped, TurnTaking
from tests.store import books
from tests.store.books import BOOKS, BookingRequested, SealingRequested, coins_and_entries
from tests.store.pacing import Pacer, driver_of

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
AGO = timedelta(days=100)


def later() -> datetime:
    """A time at which everything has ended long ago."""
    return datetime.now(UTC) + timedelta(hours=1)


async def purged(database: Database | Databases) -> Purge:
    """Purge everything that has ended."""
    return await purge_some(Databases.of(database), before=later())


async def row_of(database: Database, event_id: str) -> Any:
    """A saga's row."""
    return next(row for row in await rows(database, saga) if row.event_id == event_id)


async def test_a_purge_deletes_steps_and_payload_but_still_recognizes_repeats(stocked: Database) -> None:
    done = await driver_of(stocked, CoinsMove, EVENT, "done").drive()
    locked = TurnTakingRequested(keys=("user/olena",), ordering_key="olena")
    await driver_of(stocked, TurnTaking, locked, "locked").drive()
    Script.before["put"] = refuses()
    failed = await driver_of(stocked, CoinsMove, EVENT, "failed").drive()
    Script.clear()
    pacer = Pacer("before finish")
    driving = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "open", pacer).drive())
    await pacer.reached.wait()
    before = await row_of(stocked, "failed")
    assert await purgeable(Databases.of(stocked), before=later()) == Purge(sagas=3, steps=7, outbox=3)

    assert await purge_some(Databases.of(stocked), before=datetime.now(UTC) - AGO) == Purge()
    assert await purged(stocked) == Purge(sagas=3, steps=7, outbox=3)
    assert await purged(stocked) == Purge()

    row = await row_of(stocked, "failed")
    kept = (
        "id",
        "orchestrator",
        "event_id",
        "content_digest",
        "phase",
        "error_code",
        "outcome_event_id",
        "finished_at",
    )
    assert [getattr(row, name) for name in kept] == [getattr(before, name) for name in kept]
    assert row.purged_at is not None
    assert read(row.envelope).data == {}
    assert (await row_of(stocked, "locked")).lock_keys is None
    texts = json.dumps([[row.envelope, row.outcome] for row in await rows(stocked, saga) if row.event_id != "open"])
    assert "source" in before.outcome
    assert "olena" not in texts
    again = await driver_of(stocked, CoinsMove, EVENT, "failed").drive()
    assert (again.phase, again.error_code, again.message) == (failed.phase, failed.error_code, failed.message)
    assert cast(dict[str, Any], again.event["data"])["event"] == {}
    assert (await driver_of(stocked, CoinsMove, EVENT, "done").drive()).event == done.event
    with pytest.raises(EventIdReused):
        await driver_of(stocked, CoinsMove, EVENT.model_copy(update={"coins": 11}), "done").drive()
    assert {step.saga_id for step in await rows(stocked, saga_step)} == {saga_id("CoinsMove", "open")}
    pacer.go_on.set()
    assert (await driving).phase is Phase.COMPLETED


async def test_a_repeat_in_an_older_form_is_refused_once_the_payload_is_purged(stocked: Database) -> None:
    """An older contract omitted a default. Without the payload this cannot be recognized, so the event is refused."""
    old = {"name": "a"}
    first = driver_of(stocked, Tipped, TippedRequested(name="a"), "tip")
    await first.drive()
    async with stocked.transaction() as connection:
        envelope = json.loads((await row_of(stocked, "tip")).envelope)
        text_of_old = json.dumps({**envelope, "data": old})
        values = {"envelope": text_of_old, "content_digest": read(text_of_old).content_digest}
        await connection.execute(update(saga).values(**values))
    assert (await driver_of(stocked, Tipped, TippedRequested(name="a"), "tip").drive()).phase is Phase.COMPLETED

    await purged(stocked)

    with pytest.raises(EventIdReused):
        await driver_of(stocked, Tipped, TippedRequested(name="a"), "tip").drive()


LATE = [
    "before step 1",
    "before step 2",
    "after step 2",
    "before finish",
    "before begin undo",
    "before undo 2",
    "after undo 1",
]


@pytest.mark.parametrize("point", LATE)
async def test_a_driver_that_is_months_late_changes_nothing(stocked: Database, point: str) -> None:
    """It was stopped while another driver undid the saga and until the saga's steps were purged."""
    before = await Holdings.of(stocked)
    if "undo" in point:
        Script.before["write_note"] = refuses()
    late = Pacer(point)
    driving = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "late", late).drive())
    await asyncio.wait_for(late.reached.wait(), 20)
    ended = await driver_of(stocked, CoinsMove, EVENT, "late").undo(Phase.CANCELLED, "saga.cancelled", "by a test")
    assert (await purged(stocked)).sagas == 1
    runs = list(Script.runs)

    late.go_on.set()
    outcome = await asyncio.wait_for(driving, 20)

    assert (outcome.phase, outcome.event["id"]) == (ended.phase, ended.event["id"])
    assert await Holdings.of(stocked) == before
    assert Script.runs == runs
    assert await rows(stocked, saga_step) == []
    assert await rows(stocked, saga_outbox) == []  # the sent outcome is purged, and no other is added


@pytest.fixture(params=[(home, other) for home, other in zip(KINDS, reversed(KINDS), strict=True)], ids="-".join)
async def databases(request: pytest.FixtureRequest, postgres: str, sqlite_template: Path, tmp_path: Path) -> Any:
    """A home database of one kind and books of the other."""
    kinds: tuple[Kind, Kind] = request.param
    home = Database(await new_database(request, kinds[0], tmp_path))
    remote = Database(await new_database(request, kinds[1], tmp_path, empty=True))
    async with home.transaction() as connection:
        await tests_cast.stock(connection, a=1_000, b=0)
    await migrate(remote, name=BOOKS, application=books.tables)
    both = Databases(home, {BOOKS: remote})
    yield both
    await both.close()


@pytest.mark.parametrize("point", ["before books 1", "after books 1", "before home 3"])
@pytest.mark.parametrize("goes_back", [False, True], ids=["a step", "an undo"])
async def test_a_driver_that_is_months_late_changes_nothing_in_another_database(
    databases: Databases, point: str, goes_back: bool
) -> None:
    """It has recorded its step or its undo at home, and has not yet carried it out in the other database."""
    before = await coins_and_entries(databases)
    late = Pacer(point)
    if goes_back:
        await books.dies_at(databases, BookingRequested(), "late", "before home 5")
        driver = books.driver_of(databases, BookingRequested(), "late", late)
        driving = asyncio.create_task(driver.undo(Phase.CANCELLED, "saga.cancelled", "by a test"))
    else:
        driving = asyncio.create_task(books.driver_of(databases, BookingRequested(), "late", late).drive())
    await asyncio.wait_for(late.reached.wait(), 20)
    other = books.driver_of(databases, BookingRequested(), "late")
    ended = await other.undo(Phase.CANCELLED, "saga.cancelled", "by a test")
    assert await coins_and_entries(databases) == before
    assert (await purged(databases)).sagas == 1

    late.go_on.set()
    outcome = await asyncio.wait_for(driving, 20)

    assert outcome.event["id"] == ended.event["id"]
    assert await coins_and_entries(databases) == before
    assert await rows(databases.home, saga_step) == []
    [row] = await rows(databases.named(BOOKS), saga_step)
    assert (row.arguments, row.result, row.state) == ("{}", None, row.state)
    assert row.state in ("barred", "undone")


async def test_an_event_of_defaults_is_not_mistaken_for_a_purged_one(databases: Databases) -> None:
    await books.driver_of(databases, BookingRequested(refuse=True), "other").drive()
    await purged(databases)

    with pytest.raises(EventIdReused):
        await books.driver_of(databases, BookingRequested(), "other").drive()


async def test_a_saga_with_steps_in_an_unknown_database_is_not_purged(databases: Databases) -> None:
    await books.driver_of(databases, SealingRequested(), "sealed").drive()

    only_home = Databases(databases.home)
    assert (await purgeable(only_home, before=later())).held == 1
    assert await purged(only_home) == Purge(outbox=1)
    assert await purged(databases) == Purge(sagas=1, steps=3)


OUTSIDE = [
    ("barred", "failed", True),
    ("done", "cancelled", True),
    ("attempting", "failed", True),
    ("barred", "completed", False),
    ("undone", "failed", False),
    ("refused", "failed", False),
]


@pytest.mark.parametrize(("state", "phase", "is_held"), OUTSIDE)
async def test_a_saga_with_a_possible_orphaned_effect_is_kept_until_it_was_checked(
    stocked: Database, state: str, phase: str, is_held: bool
) -> None:
    await driver_of(stocked, CoinsMove, EVENT, "outside").drive()
    async with stocked.transaction() as connection:
        await connection.execute(update(saga).values(phase=phase))
        values = {"kind": "external", "state": state, "attempted_at": datetime.now(UTC)}
        await connection.execute(update(saga_step).where(saga_step.c.number == 2).values(**values))
    assert (await purgeable(Databases.of(stocked), before=later())).held == int(is_held)

    assert (await purged(stocked)).sagas == int(not is_held)

    async with stocked.transaction() as connection:
        await connection.execute(update(saga_step).values(attempted_at=None))
    assert (await purged(stocked)).sagas == int(is_held)


async def test_only_sent_events_and_settled_letters_are_purged(stocked: Database) -> None:
    old = datetime.now(UTC) - AGO
    async with stocked.transaction() as connection:
        for number, sent in enumerate((old, None, datetime.now(UTC))):
            event = {"event_id": f"event-{number}", "saga_id": uuid4(), "envelope": "{}", "created_at": old}
            await connection.execute(insert(saga_outbox).values(**event, sent_at=sent))
            letter = {"source": "event", "origin_workflow_id": "w", "origin_run_id": "r", "origin_position": number}
            letter |= {"raw": b"x", "size": 1, "code": "event.invalid", "reason": "", "created_at": old}
            await connection.execute(insert(saga_dead_letter).values(**letter, settled_at=sent))
    databases, before = Databases.of(stocked), datetime.now(UTC) - timedelta(days=90)
    assert await purgeable(databases, before=before) == Purge(outbox=1, dead_letters=1)

    assert await purge_some(databases, before=before) == Purge(outbox=1, dead_letters=1)

    assert [row.event_id for row in await rows(stocked, saga_outbox)] == ["event-1", "event-2"]
    assert [row.origin_position for row in await rows(stocked, saga_dead_letter)] == [1, 2]


async def test_several_workers_purge_each_saga_once(stocked: Database) -> None:
    events = 120
    await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    async with stocked.transaction() as connection:
        known = (await row_of(stocked, "one"))._mapping
        for number in range(events):
            copied = {
                **known,
                "id": UUID(int=number),
                "event_id": f"copy-{number}",
                "finished_at": known["finished_at"] - AGO,
            }
            await connection.execute(insert(saga).values(copied))
        await connection.execute(delete(saga).where(saga.c.event_id == "one"))

    done = await asyncio.gather(*(sweep(Databases.of(stocked), timedelta(days=90)) for _ in range(4)))

    assert sum((some for some, _ in done), Purge()).sagas == events
    assert all(is_done for _, is_done in done)
    assert {Outcome.model_validate_json(row.outcome).phase for row in await rows(stocked, saga)} == {Phase.COMPLETED}


async def test_a_worker_purges_sagas_older_than_its_setting(stocked: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_retention, "FIRST", (0.0, 0.0))
    await driver_of(stocked, CoinsMove, EVENT, "old").drive()
    await driver_of(stocked, CoinsMove, EVENT, "new").drive()
    async with stocked.transaction() as connection:
        await connection.execute(
            update(saga).where(saga.c.event_id == "old").values(finished_at=datetime.now(UTC) - timedelta(days=31))
        )
    ready = Ready(cast(Client, None), stocked, CATALOG)

    async def is_purged() -> bool:
        return (await row_of(stocked, "old")).purged_at is not None

    async with Manager(Settings(retention=30), catalog=CATALOG).purging(ready):
        await eventually(is_purged, "the old saga is purged")

    assert (await row_of(stocked, "new")).purged_at is None


async def test_sagas_to_purge_are_found_by_an_index(stocked: Database) -> None:
    if stocked.dialect == "sqlite":
        return
    async with stocked.transaction() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = "SELECT id FROM saga WHERE finished_at < now() AND finished_at IS NOT NULL AND purged_at IS NULL"
        plan = "\n".join(await connection.scalars(text(f"EXPLAIN {query} ORDER BY finished_at LIMIT 50")))

    assert "ix_saga_unpurged" in plan
