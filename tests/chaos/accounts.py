"""The bank's tables and operations. Every effect leaves an entry, so that a missing or doubled effect is visible."""

import asyncio
from typing import Literal

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, String, Table, insert, update
from sqlmodel import select

from orchestrator import Refused, Transaction, operation, query
from orchestrator.operation import HOME

Moment = Literal["before", "after"]
"""When an operation pauses: before its effect is written, or while the effect is written but not committed."""

JOURNAL = "journal"
"""Name of the database that is not the home database."""
tables = MetaData()
account = Table(
    "chaos_account",
    tables,
    Column("name", String(64), primary_key=True),
    Column("balance", BigInteger, nullable=False),
    CheckConstraint("balance >= 0"),
)


def _entries(name: str, database: str) -> Table:
    return Table(
        name,
        tables,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("event_id", String(128), nullable=False),
        Column("part", String(32), nullable=False),
        Column("sign", Integer, nullable=False),
        Column("account", String(64)),
        Column("amount", BigInteger, nullable=False),
        Column("key", String(64)),
        Column("sequence", Integer),
        Index(None, "event_id"),
        info={"database": database},
    )


entry, journal_entry = _entries("chaos_entry", HOME), _entries("chaos_journal_entry", JOURNAL)
"""One row for each effect (`sign` 1) and each undo (-1) of a part of a saga. No key is unique, so a doubled effect
leaves two rows, which is what the audit looks for."""


@operation
async def move(tx: Transaction, part: str, name: str, amount: int, pause_ms: int, pause: Moment) -> None:
    """Add an amount, which may be negative, to an account."""
    if pause == "before":
        await asyncio.sleep(pause_ms / 1000)
    await _book(tx, part, 1, name, amount)
    if pause == "after":
        await asyncio.sleep(pause_ms / 1000)


@move.compensation
async def move_back(tx: Transaction, part: str, name: str, amount: int) -> None:
    """Undo the move."""
    await _book(tx, part, -1, name, -amount)


@operation(retriable=True)
async def deliver(tx: Transaction, part: str, name: str, amount: int) -> None:
    """Add an amount after the pivot."""
    await _book(tx, part, 1, name, amount)


@operation
async def note(tx: Transaction, part: str, refuse: bool, key: str | None, sequence: int) -> None:
    """Write an entry, or refuse if the event asks for it."""
    if refuse:
        raise Refused("chaos.refused", f"asked to refuse {part}")
    await tx.exec(insert(entry).values(_row(tx, part, 1) | {"key": key, "sequence": sequence}))


@note.compensation
async def strike(tx: Transaction, part: str) -> None:
    """Undo the entry."""
    await tx.exec(insert(entry).values(_row(tx, part, -1)))


@operation(database=JOURNAL)
async def record(tx: Transaction, part: str, refuse: bool, pause_ms: int) -> None:
    """Write an entry in the journal, or refuse. The pause makes other sagas wait between the two databases."""
    await asyncio.sleep(pause_ms / 1000)
    if refuse:
        raise Refused("chaos.refused", f"asked to refuse {part}")
    await tx.exec(insert(journal_entry).values(_row(tx, part, 1)))


@record.compensation
async def erase(tx: Transaction, part: str) -> None:
    """Undo the entry in the journal."""
    await tx.exec(insert(journal_entry).values(_row(tx, part, -1)))


@query
async def balance(tx: Transaction, name: str) -> int:
    """Read an account's balance."""
    held: int = (await tx.exec(select(account.c.balance).where(account.c.name == name))).one()
    return held


async def _book(tx: Transaction, part: str, sign: int, name: str, amount: int) -> None:
    enough = account.c.balance + amount >= 0
    statement = update(account).where(account.c.name == name, enough).values(balance=account.c.balance + amount)
    if (await tx.exec(statement)).rowcount != 1:
        raise Refused("chaos.too_little", f"{name} does not hold {-amount}")
    await tx.exec(insert(entry).values(_row(tx, part, sign) | {"account": name, "amount": amount}))


def _row(tx: Transaction, part: str, sign: int) -> dict[str, object]:
    return {"event_id": tx.event_id, "part": part, "sign": sign, "amount": 0}
