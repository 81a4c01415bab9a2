"""Orchestrators that post letters: a cast for what the application does not have, such as calls of the outside.

The other side is a folder with a file a letter, named by its idempotency key. It travels in the event, so that a
process that is about to be killed posts to the same folder.
"""

from datetime import timedelta
from itertools import count
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, delete, insert, update

from orchestrator import (
    Confirmed,
    DomainEvent,
    ExternalCall,
    FailureEvent,
    Orchestrator,
    Saga,
    Transaction,
    external_operation,
    operation,
)

tables = MetaData()
purse = Table("purse", tables, Column("name", String(64), primary_key=True), Column("coins", Integer, nullable=False))
stamp = Table("stamp", tables, Column("id", String(64), primary_key=True), Column("text", String(200), nullable=False))

_SOON = timedelta(milliseconds=300)
_calls = count(1)


async def filled(tx: Transaction) -> None:
    """A hundred coins."""
    await tx.exec(insert(purse).values(name="a", coins=100))


@operation
async def pay(tx: Transaction, coins: int) -> None:
    """Take coins out."""
    await tx.exec(update(purse).values(coins=purse.c.coins - coins))


@pay.compensation
async def repay(tx: Transaction, coins: int) -> None:
    """Put them back."""
    await tx.exec(update(purse).values(coins=purse.c.coins + coins))


@operation
async def put_stamp(tx: Transaction, text: str) -> str:
    """Keep a stamp; answers its id."""
    key = str(tx.uuid())
    await tx.exec(insert(stamp).values(id=key, text=text))
    return key


@put_stamp.compensation
async def remove_stamp(tx: Transaction, result: str) -> None:
    """Take it away."""
    await tx.exec(delete(stamp).where(stamp.c.id == result))


@operation(retriable=True)
async def file_away(tx: Transaction, text: str) -> None:
    """Past the pivot."""
    await tx.exec(insert(stamp).values(id=str(tx.uuid()), text=text))


@external_operation(time_limit=_SOON)
async def send(call: ExternalCall, folder: str, text: str) -> str:
    """Send a letter, once for each key."""
    (Path(folder) / call.idempotency_key).write_text(text)
    return call.idempotency_key


@send.compensation
async def recall(call: ExternalCall, folder: str, result: str) -> None:
    """Get it back."""
    (Path(folder) / result).unlink(missing_ok=True)


@send.verification
async def was_sent(call: ExternalCall, folder: str) -> Confirmed[str] | None:
    """Whether it was sent."""
    there = (Path(folder) / call.idempotency_key).exists()
    return Confirmed(call.idempotency_key) if there else None


@external_operation(time_limit=_SOON, irreversible="nobody gets it back")
async def send_unasked(call: ExternalCall, folder: str, text: str) -> str:
    """Send a letter, once for each key. Nobody can ask whether it was sent."""
    (Path(folder) / call.idempotency_key).write_text(text)
    return call.idempotency_key


@external_operation(time_limit=_SOON, irreversible="a letter that is opened is read")
async def send_for_good(call: ExternalCall, folder: str, text: str) -> None:
    """Send a letter, once for each key."""
    (Path(folder) / call.idempotency_key).write_text(text)


@send_for_good.verification
async def was_sent_for_good(call: ExternalCall, folder: str) -> Confirmed[None] | None:
    """Whether it was sent."""
    return Confirmed(None) if (Path(folder) / call.idempotency_key).exists() else None


@external_operation(time_limit=_SOON)
async def send_anew(call: ExternalCall, folder: str, text: str) -> str:
    """Wrong: it does not heed the key, so each call sends a letter."""
    name = f"{call.idempotency_key}-{next(_calls)}"
    (Path(folder) / name).write_text(text)
    return name


@send_anew.compensation
async def recall_anew(call: ExternalCall, folder: str, result: str) -> None:
    """Get it back."""
    (Path(folder) / result).unlink(missing_ok=True)


@send_anew.verification
async def look_for_nothing(call: ExternalCall, folder: str) -> Confirmed[str] | None:
    """Wrong: it never finds what was sent."""
    return None


class LetterWritten(DomainEvent):
    """To be posted."""

    folder: str
    coins: int


class Answered(DomainEvent):
    """The letter was answered."""

    coins: int


class LetterPosted(DomainEvent):
    """Posted."""


class LetterNotPosted(FailureEvent):
    """Not posted."""


class Post(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """A call outside that can be asked for, between two steps."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, send, keep the stamp."""
        await saga.execute_batch(pay(event.coins), send(event.folder, "dear"), put_stamp("blue"))
        return LetterPosted()


class PostUnasked(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """A call outside that nobody can ask for."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, send."""
        await saga.execute_batch(pay(event.coins), send_unasked(event.folder, "dear"))
        return LetterPosted()


class PostAnew(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """Wrong: a call outside that does not heed its key."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Send."""
        await saga.execute(send_anew(event.folder, "dear"))
        return LetterPosted()


class PostForGood(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """A call outside that is the pivot, a pause, an answer, and what comes after it."""

    awaited = (Answered,)

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, wait, send, file away."""
        await saga.execute(pay(event.coins))
        await saga.sleep(timedelta(days=1))
        answer = await saga.wait_for(
            Answered, matching=lambda answered: answered.coins == event.coins, timeout=timedelta(days=1)
        )
        await saga.execute(send_for_good(event.folder, "dear"))
        await saga.execute(file_away("answered" if answer else "silence"))
        return LetterPosted()


class Pivots(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """A pivot of its own."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, the pivot, file away."""
        await saga.execute(pay(event.coins))
        await saga.pivot()
        await saga.execute(file_away("paid"))
        return LetterPosted()
