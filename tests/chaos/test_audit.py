"""The audit accepts correct books and finds each way of tampering with them."""

from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from sqlalchemy.sql import Executable

from orchestrator.client.publishing.event_checks import envelope_of
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import saga_id
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

MOVED, REFUSED = "moved", "refused"
FIRST, SECOND = "first", "second"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
A, B = ACCOUNTS[:2]
EVENTS: dict[str, Transfer] = {
    MOVED: OwnTransfer(shape="journal", source=A, target=B, amount=5),
    REFUSED: OwnTransfer(shape="steps", source=A, target=B, amount=7, refuse=True),
    FIRST: OrderedTransfer(shape="atomic", source=A, target=B, amount=1, key="k", sequence=1),
    SECOND: OrderedTransfer(shape="pivot", source=B, target=A, amount=2, key="k", sequence=2),
}


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncGenerator[Databases]:
    """Four sagas that ended correctly: one of them was undone, and two share a key."""
    databases = Databases.at(f"sqlite:///{tmp_path}/bank.db", {JOURNAL: f"sqlite:///{tmp_path}/journal.db"})
    for name, database in databases:
        await migrate(database, name=name, application=tables)
    async with databases.home.transaction() as connection:
        await connection.execute(insert(account), [{"name": name, "balance": BALANCE} for name in ACCOUNTS])
    for event_id, event in EVENTS.items():
        orchestrator: Any = OwnTransfers if isinstance(event, OwnTransfer) else OrderedTransfers
        envelope = envelope_of(CATALOG, event, event_id=event_id, source="tests", time=None)
        steps: Any = StoreSteps(databases, CATALOG)
        outcome = await Driver(orchestrator, event, envelope, steps).drive()
        assert outcome.phase is (Phase.FAILED if event.refuse else Phase.COMPLETED)
    yield databases
    await databases.close()


async def audited(databases: Databases) -> Findings:
    """Audit what the databases hold."""
    return audit(EVENTS, EVENTS, await Books.of(databases))


async def test_correct_books_have_no_findings(databases: Databases) -> None:
    findings = await audited(databases)

    assert findings.is_clean, findings
    assert str(findings) == "lost 0, doubled 0, wedged 0"


Which = Callable[[Findings], list[str]]
of_moved, of_refused = saga.c.event_id == MOVED, entry.c.event_id == REFUSED
ENTRY = {"event_id": MOVED, "part": OUT, "sign": 1, "account": A, "amount": -5}


def lost(findings: Findings) -> list[str]:
    return findings.lost


def doubled(findings: Findings) -> list[str]:
    return findings.doubled


def wedged(findings: Findings) -> list[str]:
    return findings.wedged


def wrong(findings: Findings) -> list[str]:
    return findings.wrong


@pytest.mark.parametrize(
    ("tampering", "which", "expected"),
    [
        pytest.param(delete(saga).where(of_moved), lost, "moved was accepted and has no saga", id="no-saga"),
        pytest.param(delete(saga_outbox), lost, "with 0 events in the outbox", id="no-outcome-event"),
        pytest.param(update(saga).where(of_moved).values(outcome=None), lost, "moved is completed", id="no-outcome"),
        pytest.param(delete(entry).where(entry.c.part == INTO), lost, "into done 0", id="no-effect"),
        pytest.param(delete(entry).where(of_refused, entry.c.sign == -1), lost, "not undone", id="no-undo"),
        pytest.param(
            insert(entry).values(ENTRY | {"sign": -1}), lost, "out done 1, undone 1", id="undone-though-completed"
        ),
        pytest.param(insert(entry).values(ENTRY), doubled, "out done 2", id="effect-twice"),
        pytest.param(
            insert(entry).values(ENTRY | {"event_id": REFUSED, "sign": -1}), doubled, "undone 2", id="undo-twice"
        ),
        pytest.param(
            insert(entry).values(ENTRY | {"event_id": "unknown"}),
            doubled,
            "no event asked for",
            id="effect-of-no-event",
        ),
        pytest.param(
            insert(saga_outbox).values(event_id="again", saga_id=saga_id("OwnTransfers", MOVED), envelope="{}"),
            doubled,
            "moved is completed, with 2 events",
            id="outcome-twice",
        ),
        pytest.param(
            update(saga).where(of_moved).values(phase="undoing"),
            wedged,
            "moved () is undoing",
            id="never-ended",
        ),
        pytest.param(
            insert(saga_lock).values(key="k", ticket=9, saga_id=saga_id("OwnTransfers", MOVED)),
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
            "but its entries add up to",
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
            update(saga).where(of_moved).values(phase="failed"),
            wrong,
            "its outcome says completed",
            id="other-outcome",
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
            "second is cancelled, although it was past its pivot",
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
async def test_each_tampering_is_found(
    databases: Databases, tampering: Executable, which: Which, expected: str
) -> None:
    async with databases.home.transaction() as connection:
        await connection.execute(tampering)

    findings = await audited(databases)

    assert any(expected in finding for finding in which(findings)), findings


async def test_a_missing_effect_in_the_other_database_is_lost(databases: Databases) -> None:
    async with databases.named(JOURNAL).transaction() as connection:
        await connection.execute(delete(journal_entry))

    findings = await audited(databases)

    assert findings.lost == ["moved, completed: noted done 0, undone 0 times"]


async def test_a_running_execution_is_wedged(databases: Databases) -> None:
    findings = audit(EVENTS, EVENTS, await Books.of(databases), running=["OwnTransfers/event/moved"])

    assert findings.wedged == ["OwnTransfers/event/moved still runs"]


async def test_an_event_may_be_overtaken_if_its_partition_was_terminated_before_it_was_opened(
    databases: Databases,
) -> None:
    now = datetime.now(UTC)
    opened = now + timedelta(seconds=60)
    async with databases.home.transaction() as connection:
        await connection.execute(update(entry).where(entry.c.sequence == 1).values(sequence=3))
        await connection.execute(update(saga).values(created_at=opened))
    partition = partition_for("OrderedTransfers", "k", 4)

    async def wrong_if_terminated(at: datetime) -> list[str]:
        return audit(EVENTS, EVENTS, await Books.of(databases), terminated={partition: [at]}).wrong

    overtaken = ["order of k: 2 came after 3"]
    assert await wrong_if_terminated(opened - timedelta(seconds=30)) == []
    assert await wrong_if_terminated(opened + timedelta(seconds=30)) == overtaken
    assert await wrong_if_terminated(now - timedelta(seconds=30)) == overtaken  # it was sent after the termination
