"""The tables and the operations that every form runs: the same SQLModel statements on the same rows.

Each statement is built once. Otherwise SQLAlchemy's time for building it, which is the same for every form, would
dominate the measurement. This module depends on neither the engine nor Temporal, so that neither has an advantage here.
"""

from uuid import UUID

from sqlalchemy import BigInteger, Integer, bindparam, delete, insert
from sqlmodel import Field, SQLModel, col, update
from sqlmodel.ext.asyncio.session import AsyncSession

ACCOUNTS = 1_000
"""How many accounts there are. Each saga uses its own pair, so that no row is contended."""
OPENING_BALANCE = 1_000_000_000
TABLES = ("bench_account", "bench_record")


class InsufficientFunds(Exception):
    """The account has too little money."""


class Account(SQLModel, table=True):
    """An account."""

    __tablename__ = "bench_account"  # pyright: ignore[reportAssignmentType]

    id: int = Field(primary_key=True)
    balance: int = Field(sa_type=BigInteger)


class Record(SQLModel, table=True):
    """The record of a transfer."""

    __tablename__ = "bench_record"  # pyright: ignore[reportAssignmentType]

    id: UUID = Field(primary_key=True)
    source: int
    target: int
    amount: int


_ACCOUNT, _AMOUNT = bindparam("account", type_=Integer), bindparam("amount", type_=BigInteger)
_TAKE = (
    update(Account)
    .where(col(Account.id) == _ACCOUNT, col(Account.balance) >= _AMOUNT)
    .values(balance=col(Account.balance) - _AMOUNT)
    .execution_options(synchronize_session=False)
)
_ADD = (
    update(Account)
    .where(col(Account.id) == _ACCOUNT)
    .values(balance=col(Account.balance) + _AMOUNT)
    .execution_options(synchronize_session=False)
)
_WRITE = insert(Record)
_ERASE = delete(Record).where(col(Record.id) == bindparam("record"))


async def take(session: AsyncSession, account: int, amount: int) -> None:
    """Take money out of an account.

    Raises:
        InsufficientFunds: the account has too little money.
    """
    updated = await session.exec(_TAKE, params={"account": account, "amount": amount})
    if updated.rowcount != 1:
        raise InsufficientFunds(f"account {account} has less than {amount}")


async def add(session: AsyncSession, account: int, amount: int) -> None:
    """Add money to an account."""
    await session.exec(_ADD, params={"account": account, "amount": amount})


async def write(session: AsyncSession, record: UUID, source: int, target: int, amount: int) -> None:
    """Record a transfer."""
    await session.exec(_WRITE, params={"id": record, "source": source, "target": target, "amount": amount})


async def erase(session: AsyncSession, record: UUID) -> None:
    """Delete a record."""
    await session.exec(_ERASE, params={"record": record})
