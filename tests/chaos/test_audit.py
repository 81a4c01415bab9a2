"""The audit sees what it is there for: the books of some sagas as they are, and tampered with."""

from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.sql import Executable

from orchestrator.client.validation import envelope_of
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.envelope import saga_id
from orchestrator.protocol.names import partition_for
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_lock, saga_outbox, saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.saga.steps import StoreSteps
from tests.chaos.accounts import JOURNAL, account, entry, journal_entry, tables
from tests.chaos.audit import Books, Findings, audit
from tests.chaos.bank import CATALOG
from tests.chaos.load import ACCOUNTS, BALANCE
from tests.chaos.transfers import INTO, OUT, OrderedTransfer, OrderedTransfers, OwnTransfer, OwnTransfers, Transfer

MADE, REFUSED = "made", "refused"
FIRST, SECOND = "first", "second"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
A, B = ACCOUNTS[:2]
EVENTS: dict[str, Transfer] = {
    MADE: OwnTransfer(shape="journal", source=A, target=B, amount=5),
    REFUSED: OwnTransfer(shape="steps", source=A, target=B, amount=7, refuse=True),
    FIRST: OrderedTransfer(shape="atomic", source=A, target=B, amount=1, key="k", sequence=1),
    SECOND: OrderedTransfer(shape="pivot", source=B, target=A, amount=2, key="k", sequence=2),
}


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncGenerator[Databases]:
    """Four sagas that ended as they should: one was undone, two have a key."""
    made = Databases.at(f"sqlite:///{tmp_path}/bank.db", {JOURNAL: f"sqlite:///{tmp_path}/journal.db"})
    for name, database in made:
        await migrate(database, name=name, application=tables)
    async with made.home.transaction() as connection:
        await connection.execute(insert(account), [{"name": name, "balance": BALANCE} for name in ACCOUNTS])
    for event_id, event in EVENTS.items():
        orchestrator: Any = OwnTransfers if isinstance(event, OwnTransfer) else OrderedTransfers
        envelope = envelope_of(CATALOG, event, event_id=event_id, source="tests", time=None)
        steps: Any = StoreSteps(made, CATALOG)
        outcome = await Driver(orchestrator, event, envelope, steps).drive()
        assert outcome.phase is (Phase.FAILED if event.refuse else Phase.COMPLETED)
    yield made
    await made.close()


async def judged(databases: Databases) -> Findings:
    """The audit's word."""
    return audit(EVENTS, EVENTS, await Books.of(databases))


async def test_books_that_are_right_have_no_faults(databases: Databases) -> None:
    found = await judged(databases)

    assert found.is_clean, found
    assert str(found) == "lost 0, doubled 0, wedged 0"


Which = Callable[[Findings], list[str]]
of_made, of_refused = saga.c.event_id == MADE, entry.c.event_id == REFUSED
ENTRY = {"event_id": MADE, "part": OUT, "sign": 1, "account": A, "amount": -5}


def lost(found: Findings) -> list[str]:
    return found.lost


def doubled(found: Findings) -> list[str]:
    return found.doubled


def wedged(found: Findings) -> list[str]:
    return found.wedged


def wrong(found: Findings) -> list[str]:
    return found.wrong


@pytest.mark.parametrize(
    ("tampering", "which", "told"),
    [
        pytest.param(delete(saga).where(of_made), lost, "made was accepted and has no saga", id="no-saga"),
        pytest.param(delete(saga_outbox), lost, "with 0 events in the outbox", id="no-outcome-event"),
        pytest.param(update(saga).where(of_made).values(outcome=None), lost, "made is completed", id="no-outcome"),
        pytest.param(delete(entry).where(entry.c.part == INTO), lost, "into done 0", id="no-effect"),
        pytest.param(delete(entry).where(of_refused, entry.c.sign == -1), lost, "not undone", id="no-undo"),
        pytest.param(insert(entry).values(ENTRY | {"sign": -1}), lost, "out done 1, undone 1", id="undone-though-made"),
        pytest.param(insert(entry).values(ENTRY), doubled, "out done 2", id="effect-twice"),
        pytest.param(
            insert(entry).values(ENTRY | {"event_id": REFUSED, "sign": -1}), doubled, "undone 2", id="undo-twice"
        ),
        pytest.param(
            insert(entry).values(ENTRY | {"event_id": "nobody"}), doubled, "nobody asked for", id="effect-of-nobody"
        ),
        pytest.param(
            insert(saga_outbox).values(event_id="again", saga_id=saga_id("OwnTransfers", MADE), envelope="{}"),
            doubled,
            "made is completed, with 2 events",
            id="outcome-twice",
        ),
        pytest.param(
            update(saga).where(of_made).values(phase="undoing"), wedged, "made () is undoing", id="never-ended"
        ),
        pytest.param(
            insert(saga_lock).values(key="k", ticket=9, saga_id=saga_id("OwnTransfers", MADE)),
            wedged,
            "1 tickets",
            id="lock-held",
        ),
        pytest.param(
            update(account).where(account.c.name == A).values(balance=account.c.balance + 1),
            wrong,
            "money is not conserved",
            id="money",
        ),
        pytest.param(
            update(account).where(account.c.name.in_([A, B])).values(balance=BALANCE),
            wrong,
            "by its entries",
            id="money-moved-without-entries",
        ),
        pytest.param(
            update(entry).where(entry.c.sequence == 1).values(sequence=3), wrong, "order of k: 2 came", id="order"
        ),
        pytest.param(
            update(saga_step).where(saga_step.c.number == 1).values(created_at=LONG_AGO),
            wrong,
            "held k at once",
            id="two-holders",
        ),
        pytest.param(
            update(saga).where(of_made).values(phase="failed"), wrong, "its outcome says completed", id="other-outcome"
        ),
        pytest.param(
            update(saga).where(saga.c.event_id == REFUSED).values(phase="completed"),
            wrong,
            "one of its steps had to be refused",
            id="completed-though-refused",
        ),
        pytest.param(
            update(saga).where(saga.c.event_id == SECOND).values(phase="cancelled"),
            wrong,
            "second is cancelled, though it was past its pivot",
            id="undone-past-pivot",
        ),
        pytest.param(
            update(saga_outbox).values(envelope="{}"),
            wrong,
            "the event in the outbox is not its outcome's",
            id="outbox",
        ),
    ],
)
async def test_what_is_tampered_with_is_seen(
    databases: Databases, tampering: Executable, which: Which, told: str
) -> None:
    async with databases.home.transaction() as connection:
        await connection.execute(tampering)

    found = await judged(databases)

    assert any(told in fault for fault in which(found)), found


async def test_an_effect_that_is_missing_in_the_other_database_is_lost(databases: Databases) -> None:
    async with databases.named(JOURNAL).transaction() as connection:
        await connection.execute(delete(journal_entry))

    found = await judged(databases)

    assert found.lost == ["made, completed: noted done 0, undone 0 times"]


async def test_an_execution_that_still_runs_is_wedged(databases: Databases) -> None:
    found = audit(EVENTS, EVENTS, await Books.of(databases), running=["OwnTransfers/event/made"])

    assert found.wedged == ["OwnTransfers/event/made still runs"]


async def test_what_was_overtaken_when_its_partition_was_terminated_is_as_documented(databases: Databases) -> None:
    now = datetime.now(UTC)
    opened = now + timedelta(seconds=60)
    async with databases.home.transaction() as connection:
        await connection.execute(update(entry).where(entry.c.sequence == 1).values(sequence=3))
        await connection.execute(update(saga).values(created_at=opened))
    partition = partition_for("OrderedTransfers", "k", 4)

    async def found(at: datetime) -> list[str]:
        return audit(EVENTS, EVENTS, await Books.of(databases), terminated={partition: [at]}).wrong

    wrong = ["order of k: 2 came after 3"]
    assert await found(opened - timedelta(seconds=30)) == []
    assert await found(opened + timedelta(seconds=30)) == wrong
    assert await found(now - timedelta(seconds=30)) == wrong  # it was sent later
