"""A cast whose operations write to a second database besides home, the books."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import sqlmodel
from sqlalchemy import Column, MetaData, String, Table, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga, Transaction, operation, query
from orchestrator.definition.catalog import Catalog
from orchestrator.drive.driver import Driver
from orchestrator.drive.steps import StepFailed
from orchestrator.protocol.commands import StepCommand, StepReply
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.store.core.database import TRIES, Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Script, box, put, take
from tests.store.pacing import Pacer

R = TypeVar("R")

BOOKS = "books"
TIME = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
tables = MetaData()
entry = Table(
    "entry",
    tables,
    Column("id", String(64), primary_key=True),
    Column("text", String(200), nullable=False),
    info={"database": BOOKS},
)


async def _run(name: str, tx: Transaction, effect: Callable[[], Awaitable[object]]) -> None:
    Script.runs.append(name)
    if name in Script.before:
        await Script.before[name](tx)
    await effect()
    if name in Script.after:
        await Script.after[name](tx)


@operation(database=BOOKS)
async def record(tx: Transaction, text: str) -> str:
    """Write an entry; returns its id."""
    key = str(tx.uuid())
    await _run("record", tx, lambda: tx.exec(insert(entry).values(id=key, text=text)))
    return key


@record.compensation
async def strike(tx: Transaction, result: str) -> None:
    """Remove the entry."""
    await _run("strike", tx, lambda: tx.exec(delete(entry).where(entry.c.id == result)))


@operation(database=BOOKS, irreversible="what is sealed is sealed")
async def seal(tx: Transaction) -> None:
    """Write an entry that cannot be undone."""
    key = str(tx.uuid())
    await _run("seal", tx, lambda: tx.exec(insert(entry).values(id=key, text="sealed")))


@operation(database=BOOKS, retriable=True)
async def file(tx: Transaction) -> None:
    """Write an entry after the pivot."""
    key = str(tx.uuid())
    await _run("file", tx, lambda: tx.exec(insert(entry).values(id=key, text="filed")))


@query(database=BOOKS)
async def entries(tx: Transaction) -> int:
    """The number of entries."""
    Script.runs.append("entries")
    counted: int = (await tx.exec(sqlmodel.select(func.count()).select_from(entry))).one()
    return counted


class BookingRequested(DomainEvent):
    """Move a coin and record it in the books."""

    refuse: bool = False


class BookingCompleted(DomainEvent):
    """The coin has been moved and recorded."""

    entry: str


class BookingFailed(FailureEvent):
    """The coin was not moved."""


class Booking(Orchestrator[BookingRequested, BookingCompleted, BookingFailed]):
    """Moves a coin; its second of three steps is in another database."""

    async def handle(self, event: BookingRequested, saga: Saga) -> BookingCompleted:
        """Take a coin, record it and put it."""
        await saga.execute(take("a", 1))
        key = await saga.execute(record("a coin"))
        await saga.execute(put("b", 1))
        if event.refuse:
            raise Refused("booking.refused", "as the event says")
        return BookingCompleted(entry=key)


class SealingRequested(DomainEvent):
    """Take a coin and seal it."""


class SealingCompleted(DomainEvent):
    """The coin has been sealed."""


class SealingFailed(FailureEvent):
    """The coin was not sealed."""


class Sealing(Orchestrator[SealingRequested, SealingCompleted, SealingFailed]):
    """Seals a coin; the pivot and the step after it are in another database."""

    async def handle(self, event: SealingRequested, saga: Saga) -> SealingCompleted:
        """Take a coin, seal it and file it."""
        await saga.execute(take("a", 1))
        await saga.execute(seal())
        await saga.execute(file())
        return SealingCompleted()


class CountingRequested(DomainEvent):
    """Count the entries, then put as many coins."""


class CountingCompleted(DomainEvent):
    """The entries have been counted."""

    counted: int


class CountingFailed(FailureEvent):
    """The entries were not counted."""


class Counting(Orchestrator[CountingRequested, CountingCompleted, CountingFailed]):
    """Counts entries; the first step is a query in another database."""

    async def handle(self, event: CountingRequested, saga: Saga) -> CountingCompleted:
        """Count the entries and put as many coins."""
        counted = await saga.execute(entries())
        await saga.execute(put("b", counted))
        return CountingCompleted(counted=counted)


class PairRequested(DomainEvent):
    """Take a coin and write two entries in one atomic step."""


class PairCompleted(DomainEvent):
    """The entries have been written."""


class PairFailed(FailureEvent):
    """The entries were not written."""


class Pair(Orchestrator[PairRequested, PairCompleted, PairFailed]):
    """Writes two entries in one atomic step in another database."""

    async def handle(self, event: PairRequested, saga: Saga) -> PairCompleted:
        """Take a coin, record two entries and put the coin."""
        await saga.execute(take("a", 1))
        await saga.execute_atomically(record("first"), record("second"))
        await saga.execute(put("b", 1))
        return PairCompleted()


CATALOG = Catalog.of(
    orchestrators=[Booking, Sealing, Counting, Pair], operations=[take, put, record, seal, file, entries]
)


async def coins_and_entries(databases: Databases) -> tuple[dict[str, int], list[str]]:
    """The coins at home and the entries in the books."""
    async with databases.home.reading() as connection:
        boxes = {row.name: row.coins for row in await connection.execute(select(box))}
    async with databases.named(BOOKS).reading() as connection:
        texts = sorted((await connection.scalars(select(entry.c.text))).all())
    return boxes, texts


class PacedDatabase(Database):
    """A driver's view of a database, with a point before and after each of its transactions."""

    def __init__(self, original: Database, name: str, pacer: Pacer) -> None:
        self.__dict__.update(original.__dict__)
        self._paced_name = name
        self._pacer = pacer
        self._number = 0

    async def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[R]], *, tries: int = TRIES) -> R:
        """Run a transaction as usual, with a point before and after it."""
        self._number += 1
        point = f"{self._paced_name} {self._number}"
        await self._pacer.at(f"before {point}")
        result = await super().in_transaction(work, tries=tries)
        await self._pacer.at(f"after {point}")
        return result


class _Steps(StoreSteps):
    """Steps that are not retried."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        try:
            return await super().run(command, deadline, attempt=attempt)
        except RuntimeError as fault:
            raise StepFailed(str(fault)) from fault


def driver_of(databases: Databases, event: DomainEvent, event_id: str, pacer: Pacer | None = None) -> Driver:
    """A driver that runs in this process and calls both databases directly."""
    [orchestrator] = CATALOG.listeners(type(event))
    used = pacer or Pacer()
    paced = Databases(
        PacedDatabase(databases.home, "home", used),
        {BOOKS: PacedDatabase(databases.named(BOOKS), BOOKS, used)},
    )
    envelope = wrap(event, event_id=event_id, source="tests", time=TIME)
    return Driver(orchestrator, event, envelope, _Steps(paced, CATALOG))


async def dies_at(databases: Databases, event: DomainEvent, event_id: str, point: str) -> None:
    """Run a driver to a point and abandon it there, as if its worker had died."""
    pacer = Pacer(point)
    driving = asyncio.create_task(driver_of(databases, event, event_id, pacer).drive())
    reached = asyncio.create_task(pacer.reached.wait())
    async with asyncio.timeout(20):
        await asyncio.wait({driving, reached}, return_when=asyncio.FIRST_COMPLETED)
    assert pacer.reached.is_set(), f"the driver never reached {point}; it passed {pacer.passed}"
    # The task is not cancelled, because the driver would notice that. It waits at its point for ever.
    _abandoned.append(driving)


_abandoned: list[asyncio.Task[object]] = []
