"""The effect that a good event has: one row. Nothing keeps it from being there twice: that is what is looked for."""

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, insert
from sqlmodel import delete

from orchestrator import Refused, Transaction, operation

tables = MetaData()
mark = Table(
    "doors_mark",
    tables,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", String(128), nullable=False),
    Column("what", String(32), nullable=False),
)


@operation
async def make(tx: Transaction, what: str) -> None:
    """Leave a mark."""
    await tx.exec(insert(mark).values(event_id=tx.event_id, what=what))


@make.compensation
async def wipe(tx: Transaction, what: str) -> None:
    """Take one away."""
    await tx.exec(delete(mark).where(mark.c.event_id == tx.event_id, mark.c.what == what))


@operation(irreversible="a refusal leaves nothing")
async def check(tx: Transaction, refuse: bool) -> None:
    """Say no, where that is asked for."""
    if refuse:
        raise Refused("mark.unwanted", "this one is refused")
