"""The bank's tables and operations: every effect leaves an entry, so that one too many or too few is seen exactly."""

import asyncio
from typing import Literal

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, String, Table, insert, update
from sqlmodel import select

from orchestrator import Refused, Transaction, operation, query
from orchestrator.operation import HOME

Moment = Literal["before", "after"]
"""When an operation dawdles: before its effect is written, or with the effect written and not committed."""

JOURNAL = "journal"
"""Name of the database that is not home."""
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
"""One row an effect (`sign` 1) and one an undo (-1), of a saga and one of its parts. Nothing keeps a row from being
there twice: that is what the audit looks for."""


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
    """Take it back."""
    await _book(tx, part, -1, name, -amount)


@operation(retriable=True)
async def deliver(tx: Transaction, part: str, name: str, amount: int) -> None:
    """Add an amount, past the pivot."""
    await _book(tx, part, 1, name, amount)


@operation
async def note(tx: Transaction, part: str, refuse: bool, key: str | None, sequence: int) -> None:
    """Leave a trace; or refuse."""
    if refuse:
        raise Refused("chaos.refused", f"asked to refuse {part}")
    await tx.exec(insert(entry).values(_row(tx, part, 1) | {"key": key, "sequence": sequence}))


@note.compensation
async def strike(tx: Transaction, part: str) -> None:
    """Take the trace back."""
    await tx.exec(insert(entry).values(_row(tx, part, -1)))


@operation(database=JOURNAL)
async def record(tx: Transaction, part: str, refuse: bool, pause_ms: int) -> None:
    """Leave a trace in a database of its own; or refuse. Who dawdles keeps others waiting between the two databases."""
    await asyncio.sleep(pause_ms / 1000)
    if refuse:
        raise Refused("chaos.refused", f"asked to refuse {part}")
    await tx.exec(insert(journal_entry).values(_row(tx, part, 1)))


@record.compensation
async def erase(tx: Transaction, part: str) -> None:
    """Take the trace back."""
    await tx.exec(insert(journal_entry).values(_row(tx, part, -1)))


@query
async def balance(tx: Transaction, name: str) -> int:
    """What an account holds."""
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
