"""Orchestrators that are wrong, each in one way that an author might not see: the kit has to.

Their tables: boxes of coins, and a ledger. What stands outside of the database is a list.
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
    """Letters that were sent."""

    letters: ClassVar[list[str]] = []


async def boxes(tx: Transaction) -> None:
    """A hundred coins in box `a`."""
    await tx.exec(insert(box).values(name="a", coins=100))


async def _add(tx: Transaction, coins: int) -> None:
    await tx.exec(update(box).where(box.c.name == "a").values(coins=box.c.coins + coins))


@operation(irreversible="for `given` alone")
async def open_box(tx: Transaction, name: str, coins: int) -> None:
    """A box."""
    await tx.exec(insert(box).values(name=name, coins=coins))


@operation
async def take_by_reading(tx: Transaction, coins: int) -> int:
    """Take coins out; answers how many there were."""
    before: int = (await tx.exec(select(box.c.coins).where(box.c.name == "a"))).one()
    await _add(tx, -coins)
    return before


@take_by_reading.compensation
async def set_back(tx: Transaction, result: int) -> None:
    """Wrong: it sets what was read, whatever others have done since."""
    await tx.exec(update(box).where(box.c.name == "a").values(coins=result))


@operation
async def take_and_enter(tx: Transaction, coins: int) -> None:
    """Take coins out, and enter it in the ledger."""
    await _add(tx, -coins)
    await tx.exec(insert(entry).values(id=str(tx.uuid()), coins=coins))


@take_and_enter.compensation
async def give_back_only(tx: Transaction, coins: int) -> None:
    """Wrong: the ledger is forgotten."""
    await _add(tx, coins)


@operation
async def take(tx: Transaction, coins: int) -> None:
    """Take coins out."""
    await _add(tx, -coins)


@take.compensation
async def give_back(tx: Transaction, coins: int) -> None:
    """Put them back."""
    await _add(tx, coins)


@operation
async def take_and_tell(tx: Transaction, coins: int) -> None:
    """Wrong: it tells somebody outside of its transaction."""
    await _add(tx, -coins)
    Outside.letters.append(f"{coins} taken")


@take_and_tell.compensation
async def give_back_and_untell(tx: Transaction, coins: int) -> None:
    """Put them back, and untell it."""
    await _add(tx, coins)
    Outside.letters.remove(f"{coins} taken")


@operation
async def take_for_good(tx: Transaction, coins: int) -> None:
    """Take coins out."""
    await _add(tx, -coins)


@take_for_good.compensation
async def refuse_to_give_back(tx: Transaction, coins: int) -> None:
    """Wrong: a compensation has to be done."""
    raise Refused("box.closed", f"{coins} cannot come back")


_clock = count(1)


@operation
async def enter_the_time(tx: Transaction, coins: int) -> None:
    """Wrong: what it writes comes from a clock."""
    await tx.exec(insert(entry).values(id=str(tx.uuid()), coins=next(_clock)))


@enter_the_time.compensation
async def strike_out(tx: Transaction) -> None:
    """Empty the ledger."""
    await tx.exec(delete(entry))


@operation
async def count_up(tx: Transaction, coins: int) -> None:
    """Count in the ledger, two for one: wrong by itself, and its compensation knows."""
    await _add(tx, -2 * coins)


@count_up.compensation
async def count_down(tx: Transaction, coins: int) -> None:
    """Wrong for large numbers only."""
    await _add(tx, 2 * min(coins, 15))


class Asked(DomainEvent):
    """Take coins."""

    coins: int


class Taken(DomainEvent):
    """Taken."""


class NotTaken(FailureEvent):
    """Not taken."""


class SetsBack(Orchestrator[Asked, Taken, NotTaken]):
    """Its compensation sets an absolute value."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take."""
        await saga.execute(take_by_reading(event.coins))
        return Taken()


class Forgets(Orchestrator[Asked, Taken, NotTaken]):
    """Its compensation forgets a table."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take twice."""
        await saga.execute_batch(take_and_enter(event.coins), take(event.coins))
        return Taken()


class Tells(Orchestrator[Asked, Taken, NotTaken]):
    """Its operation has an effect outside of the transaction."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take."""
        await saga.execute(take_and_tell(event.coins))
        return Taken()


class Guesses(Orchestrator[Asked, Taken, NotTaken]):
    """Its handle does another thing each time."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take a number of coins that comes from nowhere."""
        await saga.execute(take(event.coins + next(_clock)))
        return Taken()


class WillNotGiveBack(Orchestrator[Asked, Taken, NotTaken]):
    """Its compensation refuses."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take twice."""
        await saga.execute_batch(take_for_good(event.coins), take(event.coins))
        return Taken()


class AsksTheClock(Orchestrator[Asked, Taken, NotTaken]):
    """Its operation writes the time."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Enter."""
        await saga.execute(enter_the_time(event.coins))
        return Taken()


class RightForSmallNumbers(Orchestrator[Asked, Taken, NotTaken]):
    """Its compensation is wrong for numbers that its example does not have."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Count."""
        await saga.execute(count_up(event.coins))
        return Taken()


class Right(Orchestrator[Asked, Taken, NotTaken]):
    """Nothing is wrong with it."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Take."""
        await saga.execute(take(event.coins))
        return Taken()


class NeverRight(Orchestrator[Asked, Taken, NotTaken]):
    """It raises."""

    async def handle(self, event: Asked, saga: Saga) -> Taken:
        """Wrong."""
        raise LookupError("there is nothing here")
