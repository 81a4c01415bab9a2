"""Orchestrators that are each wrong in one way that an author might overlook and the kit must detect.

Their tables are boxes of coins and a ledger. A list stands for the world outside of the database.
"""

from itertools import count
from typing import ClassVar

from sqlalchemy import Column, Integer, MetaData, String, Table, delete, insert, update
from sqlmodel import select

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga, Transaction, operation

tables = MetaData()
box = Table("box", tables, Column("name", String(64), primary_key=True), Column("coins", Integer, nullable=False))
entry = Table("entry", tables, Column("id", String(64), primary_key=True), Column("coins", Integer, nullable=False))


class Outside:
    """The world outside of the database: the letters that were sent."""

    letters: ClassVar[list[str]] = []


async def boxes(tx: Transaction) -> None:
    """Put a hundred coins into box `a`."""
    await tx.exec(insert(box).values(name="a", coins=100))


async def _add(tx: Transaction, coins: int) -> None:
    await tx.exec(update(box).where(box.c.name == "a").values(coins=box.c.coins + coins))


@operation(irreversible="for `given` alone")
async def open_box(tx: Transaction, name: str, coins: int) -> None:
    """Create a box."""
    await tx.exec(insert(box).values(name=name, coins=coins))


@operation
async def take_by_reading(tx: Transaction, coins: int) -> int:
    """Take coins out; returns how many there were before."""
    before: int = (await tx.exec(select(box.c.coins).where(box.c.name == "a"))).one()
    await _add(tx, -coins)
    return before


@take_by_reading.compensation
async def set_back(tx: Transaction, result: int) -> None:
    """Wrong: it restores the value that was read, and thereby loses what others have changed since."""
    await tx.exec(update(box).where(box.c.name == "a").values(coins=result))


@operation
async def take_and_enter(tx: Transaction, coins: int) -> None:
    """Take coins out and write an entry into the ledger."""
    await _add(tx, -coins)
    await tx.exec(insert(entry).values(id=str(tx.uuid()), coins=coins))


@take_and_enter.compensation
async def give_back_only(tx: Transaction, coins: int) -> None:
    """Wrong: it does not remove the ledger's entry."""
    await _add(tx, coins)


@operation
async def take(tx: Transaction, coins: int) -> None:
    """Take coins out."""
    await _add(tx, -coins)


@take.compensation
async def give_back(tx: Transaction, coins: int) -> None:
    """Put the coins back."""
    await _add(tx, coins)


@operation
async def take_and_tell(tx: Transaction, coins: int) -> None:
    """Wrong: it has an effect outside of its transaction."""
    await _add(tx, -coins)
    Outside.letters.append(f"{coins} taken")


@take_and_tell.compensation
async def give_back_and_untell(tx: Transaction, coins: int) -> None:
    """Put the coins back and remove the effect outside."""
    await _add(tx, coins)
    Outside.letters.remove(f"{coins} taken")


@operation
async def take_for_good(tx: Transaction, coins: int) -> None:
    """Take coins out."""
    await _add(tx, -coins)


@take_for_good.compensation
async def refuse_to_give_back(tx: Transaction, coins: int) -> None:
    """Wrong: a compensation must not refuse."""
    raise Refused("box.closed", f"{coins} cannot come back")


_clock = count(1)


@operation
async def enter_the_time(tx: Transaction, coins: int) -> None:
    """Wrong: it writes the time of a clock."""
    await tx.exec(insert(entry).values(id=str(tx.uuid()), coins=next(_clock)))


@enter_the_time.compensation
async def strike_out(tx: Transaction) -> None:
    """Empty the ledger."""
    await tx.exec(delete(entry))


@operation
async def count_up(tx: Transaction, coins: int) -> None:
    """Take twice the coins; its compensation puts twice the coins back."""
    await _add(tx, -2 * coins)


@count_up.compensation
async def count_down(tx: Transaction, coins: int) -> None:
    """Wrong only for large numbers."""
    await _add(tx, 2 * min(coins, 15))


class Asked(DomainEvent):
    """The request to take coins."""

    coins: int


class Taken(DomainEvent):
    """The coins have been taken."""


class NotTaken(FailureEvent):
    """The coins were not taken."""


class SetsBack(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose compensation sets an absolute value."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take the coins."""
        await saga.execute(take_by_reading(event.coins))
        return Taken()


class Forgets(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose compensation forgets a table."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take the coins twice."""
        await saga.execute_all(take_and_enter(event.coins), take(event.coins))
        return Taken()


class Tells(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose operation has an effect outside of the transaction."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take the coins."""
        await saga.execute(take_and_tell(event.coins))
        return Taken()


class Guesses(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose `handle` calls different steps each time."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take a number of coins that depends on a counter."""
        await saga.execute(take(event.coins + next(_clock)))
        return Taken()


class WillNotGiveBack(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose compensation refuses."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take the coins twice."""
        await saga.execute_all(take_for_good(event.coins), take(event.coins))
        return Taken()


class AsksTheClock(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose operation writes the time."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Write the time into the ledger."""
        await saga.execute(enter_the_time(event.coins))
        return Taken()


class RightForSmallNumbers(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose compensation is wrong only for numbers that its example does not have."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take twice the coins."""
        await saga.execute(count_up(event.coins))
        return Taken()


class Right(Orchestrator[Asked, Taken, NotTaken]):
    """A correct orchestrator."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take the coins."""
        await saga.execute(take(event.coins))
        return Taken()


class NeverRight(Orchestrator[Asked, Taken, NotTaken]):
    """An orchestrator whose `handle` always raises."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Raise an error."""
        raise LookupError("there is nothing here")
