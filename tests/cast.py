"""The shared cast: operations on a tiny ledger of boxes, coins and notes. `tests.orchestrators` calls them.

Each operation consults `Script`, so that a test can make any step refuse, fail, or wait at a chosen point.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from sqlalchemy import Column, Integer, MetaData, String, Table, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import select
from temporalio import activity

from orchestrator import Contract, Refused, Transaction, operation, query

tables = MetaData()
box = Table("box", tables, Column("name", String(64), primary_key=True), Column("coins", Integer, nullable=False))
note = Table("note", tables, Column("id", String(64), primary_key=True), Column("text", String(200), nullable=False))

Act = Callable[[Transaction], Awaitable[None]]


class Script:
    """The faults of the cast's operations, by operation name; a test sets them, and a fixture clears them."""

    before: ClassVar[dict[str, Act]] = {}
    """Run first in the operation's transaction."""
    after: ClassVar[dict[str, Act]] = {}
    """Run last in the operation's transaction, its effect written and not committed."""
    runs: ClassVar[list[str]] = []
    """Operations that were started, in order, including failed attempts."""

    @classmethod
    def clear(cls) -> None:
        """Remove all faults."""
        cls.before.clear()
        cls.after.clear()
        cls.runs.clear()
        Plan.has_bug = False
        Plan.deployed = ""


async def _play(name: str, tx: Transaction, effect: Act) -> None:
    Script.runs.append(name)
    if name in Script.before:
        await Script.before[name](tx)
    await effect(tx)
    if name in Script.after:
        await Script.after[name](tx)


def refuses(code: str = "box.refused", details: Contract | None = None) -> Act:
    """An act that refuses."""

    async def act(tx: Transaction) -> None:
        raise Refused(code, f"refused by the script with {code}", details)

    return act


def fails(times: int | None = None) -> Act:
    """An act that raises an error other than a refusal, `times` times or always."""
    remaining = [times]

    async def act(tx: Transaction) -> None:
        if remaining[0] is None:
            raise RuntimeError("the script fails for good")
        if remaining[0] > 0:
            remaining[0] -= 1
            raise RuntimeError("the script fails for now")

    return act


class Gate:
    """A point at which an operation waits until the test lets it go on.

    A local attempt would time out after a second, so it fails here and the regular attempt waits, unless `locally`.
    """

    def __init__(self, *, locally: bool = False) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._locally = locally

    async def __call__(self, tx: Transaction) -> None:
        if activity.in_activity() and activity.info().is_local and not self._locally:
            raise RuntimeError("the gate lets no local attempt in")
        self.reached.set()
        await self.opened.wait()


def _adding(name: str, coins: int) -> Act:
    async def add(tx: Transaction) -> None:
        await tx.exec(update(box).where(box.c.name == name).values(coins=box.c.coins + coins))

    return add


@operation
async def take(tx: Transaction, name: str, coins: int) -> int:
    """Take coins out of a box and return how many."""
    await _play("take", tx, _adding(name, -coins))
    return coins


@take.compensation
async def give_back(tx: Transaction, name: str, coins: int) -> None:
    """Put the coins back."""
    await _play("give_back", tx, _adding(name, coins))


@operation
async def put(tx: Transaction, name: str, coins: int) -> None:
    """Put coins into a box."""
    await _play("put", tx, _adding(name, coins))


@put.compensation
async def take_out(tx: Transaction, name: str, coins: int) -> None:
    """Take the coins out again."""
    await _play("take_out", tx, _adding(name, -coins))


def _writing(key: str, text: str) -> Act:
    async def write(tx: Transaction) -> None:
        await tx.exec(insert(note).values(id=key, text=text))

    return write


@operation
async def write_note(tx: Transaction, text: str) -> str:
    """Write a note and return its id."""
    key = str(tx.uuid())
    await _play("write_note", tx, _writing(key, text))
    return key


def _tearing(key: str) -> Act:
    async def tear(tx: Transaction) -> None:
        await tx.exec(delete(note).where(note.c.id == key))

    return tear


@write_note.compensation
async def tear_up(tx: Transaction, result: str) -> None:
    """Delete the note."""
    await _play("tear_up", tx, _tearing(result))


@query
async def count(tx: Transaction, name: str) -> int:
    """How many coins are in a box."""
    Script.runs.append("count")
    if "count" in Script.before:
        await Script.before["count"](tx)
    coins: int = (await tx.exec(select(box.c.coins).where(box.c.name == name))).one()
    return coins


@query
async def lots(tx: Transaction, size: int) -> str:
    """Return a string of this many characters."""
    Script.runs.append("lots")
    return "x" * size


@operation(irreversible="a letter that is sent cannot be called back")
async def send_letter(tx: Transaction, text: str) -> None:
    """Send a letter."""
    await _play("send_letter", tx, _writing(f"letter-{tx.event_id}", text))


@operation(retriable=True)
async def deliver(tx: Transaction, text: str) -> None:
    """Deliver a note. It may follow the pivot, where nothing is undone."""
    await _play("deliver", tx, _writing(f"delivery-{tx.event_id}", text))


class Plan:
    """What the code of the cast's changing orchestrators does; a test sets it."""

    has_bug: ClassVar[bool] = False
    deployed: ClassVar[str] = ""
    """How the version of `Deployed` that runs now differs: see `tests.deployed`."""


async def stock(connection: AsyncConnection, **boxes: int) -> None:
    """Create the cast's tables and fill boxes."""
    await connection.run_sync(tables.create_all)
    for name, coins in boxes.items():
        await connection.execute(insert(box).values(name=name, coins=coins))
