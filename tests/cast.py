"""The shared cast: a tiny ledger, operations on it, and orchestrators that use them well and badly.

An operation asks its `Script` what to do, so a test can make any step refuse, fail, or wait at a point of its choice.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga, Transaction, operation, query

tables = MetaData()
box = Table("box", tables, Column("name", String(64), primary_key=True), Column("coins", Integer, nullable=False))
note = Table("note", tables, Column("id", String(64), primary_key=True), Column("text", String(200), nullable=False))

Act = Callable[[Transaction], Awaitable[None]]


class Script:
    """What the cast does at each operation, by name; a test sets it and clears it."""

    before: ClassVar[dict[str, Act]] = {}
    """Run first in the operation's transaction."""
    after: ClassVar[dict[str, Act]] = {}
    """Run last in the operation's transaction, its effect written and not committed."""
    runs: ClassVar[list[str]] = []
    """Operations begun, in order, attempts that failed among them."""

    @classmethod
    def clear(cls) -> None:
        """Back to a cast that behaves."""
        cls.before.clear()
        cls.after.clear()
        cls.runs.clear()


async def _play(name: str, tx: Transaction, effect: Awaitable[None]) -> None:
    Script.runs.append(name)
    if name in Script.before:
        try:
            await Script.before[name](tx)
        except BaseException:
            asyncio.ensure_future(effect).cancel()
            raise
    await effect
    if name in Script.after:
        await Script.after[name](tx)


def refuses(code: str = "box.refused") -> Act:
    """Says no."""

    async def act(tx: Transaction) -> None:
        raise Refused(code, f"refused by the script with {code}")

    return act


def fails(times: int | None = None) -> Act:
    """Raises an error that is no refusal: `times` times, or always."""
    left = [times]

    async def act(tx: Transaction) -> None:
        if left[0] is None:
            raise RuntimeError("the script fails for good")
        if left[0] > 0:
            left[0] -= 1
            raise RuntimeError("the script fails for now")

    return act


class Gate:
    """A point at which an operation waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, tx: Transaction) -> None:
        self.reached.set()
        await self.opened.wait()


async def _add(tx: Transaction, name: str, coins: int) -> None:
    await tx.execute(update(box).where(box.c.name == name).values(coins=box.c.coins + coins))


@operation
async def take(tx: Transaction, name: str, coins: int) -> int:
    """Take coins out; answers how many."""
    await _play("take", tx, _add(tx, name, -coins))
    return coins


@take.compensation
async def give_back(tx: Transaction, name: str, coins: int) -> None:
    """Put them back."""
    await _play("give_back", tx, _add(tx, name, coins))


@operation
async def put(tx: Transaction, name: str, coins: int) -> None:
    """Put coins in."""
    await _play("put", tx, _add(tx, name, coins))


@put.compensation
async def take_out(tx: Transaction, name: str, coins: int) -> None:
    """Take them out again."""
    await _play("take_out", tx, _add(tx, name, -coins))


async def _write(tx: Transaction, key: str, text: str) -> None:
    await tx.execute(insert(note).values(id=key, text=text))


@operation
async def write_note(tx: Transaction, text: str) -> str:
    """Write a note; answers its id."""
    key = str(tx.uuid())
    await _play("write_note", tx, _write(tx, key, text))
    return key


async def _tear(tx: Transaction, key: str) -> None:
    await tx.execute(note.delete().where(note.c.id == key))


@write_note.compensation
async def tear_up(tx: Transaction, result: str) -> None:
    """Remove the note."""
    await _play("tear_up", tx, _tear(tx, result))


@query
async def count(tx: Transaction, name: str) -> int:
    """How many coins are in a box."""
    Script.runs.append("count")
    return (await tx.execute(select(box.c.coins).where(box.c.name == name))).scalar_one()


@operation(irreversible="a letter that is sent is sent")
async def send_letter(tx: Transaction, text: str) -> None:
    """Send a letter."""
    await _play("send_letter", tx, _write(tx, f"letter-{tx.event_id}", text))


class CoinsMoveRequested(DomainEvent):
    """Move coins from a box to another."""

    source: str
    target: str
    coins: int


class CoinsMoveCompleted(DomainEvent):
    """Moved."""

    coins: int
    note: str


class CoinsMoveFailed(FailureEvent):
    """Not moved."""


class CoinsMove(Orchestrator[CoinsMoveRequested, CoinsMoveCompleted, CoinsMoveFailed]):
    """Three steps that can be undone."""

    async def handle(self, event: CoinsMoveRequested, saga: Saga) -> CoinsMoveCompleted:
        """Take, put, note."""
        taken, _, key = await saga.execute_batch(
            take(event.source, event.coins), put(event.target, event.coins), write_note(f"moved {event.coins}")
        )
        return CoinsMoveCompleted(coins=taken, note=key)


class LetterRequested(DomainEvent):
    """Send a letter with coins."""

    source: str
    coins: int


class LetterCompleted(DomainEvent):
    """Sent."""


class LetterFailed(FailureEvent):
    """Not sent."""


class Letter(Orchestrator[LetterRequested, LetterCompleted, LetterFailed]):
    """A step that can be undone, then one that cannot."""

    async def handle(self, event: LetterRequested, saga: Saga) -> LetterCompleted:
        """Take, send."""
        await saga.execute(take(event.source, event.coins))
        await saga.execute(send_letter("coins inside"))
        return LetterCompleted()


class NothingRequested(DomainEvent):
    """Do nothing, or say no without a step."""

    refuse: bool


class NothingCompleted(DomainEvent):
    """Done nothing."""


class NothingFailed(FailureEvent):
    """Refused without a step."""


class Nothing(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
    """A saga of no steps."""

    async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
        """Refuse, or not."""
        if event.refuse:
            raise Refused("nothing.refused", "asked to refuse")
        return NothingCompleted()


class ParallelMoveRequested(DomainEvent):
    """Move coins, both sides at once."""

    source: str
    target: str
    coins: int


class ParallelMoveCompleted(DomainEvent):
    """Moved."""

    before: int


class ParallelMoveFailed(FailureEvent):
    """Not moved."""


class ParallelMove(Orchestrator[ParallelMoveRequested, ParallelMoveCompleted, ParallelMoveFailed]):
    """Steps at once, the first of the saga among them."""

    async def handle(self, event: ParallelMoveRequested, saga: Saga) -> ParallelMoveCompleted:
        """Count, take and put at once."""
        before, _, _ = await saga.execute_batch(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins), parallel=True
        )
        return ParallelMoveCompleted(before=before)


async def stock(connection: AsyncConnection, **boxes: int) -> None:
    """Create the cast's tables and fill boxes."""
    await connection.run_sync(tables.create_all)
    for name, coins in boxes.items():
        await connection.execute(insert(box).values(name=name, coins=coins))
