"""The effect of a good event: rows in a table without a unique key, so that a doubled effect shows."""

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, insert
from sqlmodel import delete

from orchestrator import Refused, Transaction, operation

tables = MetaData()
mark = Table(
    "sources_mark",
    tables,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", String(128), nullable=False),
    Column("label", String(32), nullable=False),
)


@operation
async def make(tx: Transaction, label: str) -> None:
    """Insert one row."""
    await tx.exec(insert(mark).values(event_id=tx.event_id, label=label))


@make.compensation
async def wipe(tx: Transaction, label: str) -> None:
    """Delete that row."""
    await tx.exec(delete(mark).where(mark.c.event_id == tx.event_id, mark.c.label == label))


@operation(irreversible="a refusal leaves nothing")
async def check(tx: Transaction, refuse: bool) -> None:
    """Refuse if the event asks for it."""
    if refuse:
        raise Refused("mark.unwanted", "the event asks to be refused")
