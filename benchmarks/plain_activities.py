"""The plain saga's activities. Each is one transaction without a fence, so a lost reply can repeat an effect."""

from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from benchmarks import ledger


class Transfer(BaseModel):
    """A transfer's accounts and amount."""

    source: int
    target: int
    amount: int


class Side(BaseModel):
    """One side of a transfer."""

    account: int
    amount: int


class Entry(BaseModel):
    """A transfer with the id of its record."""

    id: UUID
    transfer: Transfer


@dataclass(frozen=True)
class Activities:
    """The activities of one worker, which share its database connections."""

    engine: AsyncEngine

    @activity.defn
    async def withdraw(self, side: Side) -> None:
        """Take money out of an account."""
        async with AsyncSession(self.engine) as session, session.begin():
            await _take(session, side)

    @activity.defn
    async def put_back(self, side: Side) -> None:
        """Add the withdrawn money back."""
        async with AsyncSession(self.engine) as session, session.begin():
            await ledger.add(session, side.account, side.amount)

    @activity.defn
    async def deposit(self, side: Side) -> None:
        """Add money to an account."""
        async with AsyncSession(self.engine) as session, session.begin():
            await ledger.add(session, side.account, side.amount)

    @activity.defn
    async def take_back(self, side: Side) -> None:
        """Take the deposited money out again."""
        async with AsyncSession(self.engine) as session, session.begin():
            await _take(session, side)

    @activity.defn
    async def record(self, entry: Entry) -> UUID:
        """Record the transfer, and return the record's id."""
        async with AsyncSession(self.engine) as session, session.begin():
            await _write(session, entry)
        return entry.id

    @activity.defn
    async def erase(self, entry: Entry) -> None:
        """Delete the record."""
        async with AsyncSession(self.engine) as session, session.begin():
            await ledger.erase(session, entry.id)

    @activity.defn
    async def transfer(self, entry: Entry) -> UUID:
        """Withdraw, deposit and record in one transaction."""
        transfer = entry.transfer
        async with AsyncSession(self.engine) as session, session.begin():
            await _take(session, Side(account=transfer.source, amount=transfer.amount))
            await ledger.add(session, transfer.target, transfer.amount)
            await _write(session, entry)
        return entry.id


async def _take(session: AsyncSession, side: Side) -> None:
    try:
        await ledger.take(session, side.account, side.amount)
    except ledger.InsufficientFunds as fault:
        raise ApplicationError(str(fault), type="InsufficientFunds", non_retryable=True) from fault


async def _write(session: AsyncSession, entry: Entry) -> None:
    transfer = entry.transfer
    await ledger.write(session, entry.id, transfer.source, transfer.target, transfer.amount)
