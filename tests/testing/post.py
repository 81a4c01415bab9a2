"""Orchestrators that post letters, for what the application does not have, such as external calls.

The external service is a folder with one file per letter, named by its idempotency key. The event carries the
folder's path, so that a process that will be killed posts to the same folder.
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
    """Put a hundred coins into the purse."""
    await tx.exec(insert(purse).values(name="a", coins=100))


@operation
async def pay(tx: Transaction, coins: int) -> None:
    """Take coins out."""
    await tx.exec(update(purse).values(coins=purse.c.coins - coins))


@pay.compensation
async def repay(tx: Transaction, coins: int) -> None:
    """Put the coins back."""
    await tx.exec(update(purse).values(coins=purse.c.coins + coins))


@operation
async def put_stamp(tx: Transaction, text: str) -> str:
    """Store a stamp; returns its id."""
    key = str(tx.uuid())
    await tx.exec(insert(stamp).values(id=key, text=text))
    return key


@put_stamp.compensation
async def remove_stamp(tx: Transaction, result: str) -> None:
    """Remove the stamp."""
    await tx.exec(delete(stamp).where(stamp.c.id == result))


@operation(retriable=True)
async def file_away(tx: Transaction, text: str) -> None:
    """Store a text, past the pivot."""
    await tx.exec(insert(stamp).values(id=str(tx.uuid()), text=text))


@external_operation(time_limit=_SOON)
async def send(call: ExternalCall, folder: str, text: str) -> str:
    """Send a letter, once per key."""
    (Path(folder) / call.idempotency_key).write_text(text)
    return call.idempotency_key


@send.compensation
async def recall(call: ExternalCall, folder: str, result: str) -> None:
    """Remove the letter."""
    (Path(folder) / result).unlink(missing_ok=True)


@send.verification
async def was_sent(call: ExternalCall, folder: str) -> Confirmed[str] | None:
    """Confirm the letter if it was sent."""
    was_written = (Path(folder) / call.idempotency_key).exists()
    return Confirmed(call.idempotency_key) if was_written else None


@external_operation(time_limit=_SOON, irreversible="nobody gets it back")
async def send_unasked(call: ExternalCall, folder: str, text: str) -> str:
    """Send a letter, once per key. There is no verification."""
    (Path(folder) / call.idempotency_key).write_text(text)
    return call.idempotency_key


@external_operation(time_limit=_SOON, irreversible="a letter that is opened is read")
async def send_for_good(call: ExternalCall, folder: str, text: str) -> None:
    """Send a letter, once per key."""
    (Path(folder) / call.idempotency_key).write_text(text)


@send_for_good.verification
async def was_sent_for_good(call: ExternalCall, folder: str) -> Confirmed[None] | None:
    """Confirm the letter if it was sent."""
    return Confirmed(None) if (Path(folder) / call.idempotency_key).exists() else None


@external_operation(time_limit=_SOON)
async def send_anew(call: ExternalCall, folder: str, text: str) -> str:
    """Wrong: it ignores the key, so each call sends another letter."""
    name = f"{call.idempotency_key}-{next(_calls)}"
    (Path(folder) / name).write_text(text)
    return name


@send_anew.compensation
async def recall_anew(call: ExternalCall, folder: str, result: str) -> None:
    """Remove the letter."""
    (Path(folder) / result).unlink(missing_ok=True)


@send_anew.verification
async def look_for_nothing(call: ExternalCall, folder: str) -> Confirmed[str] | None:
    """Wrong: it never finds what was sent."""
    return None


class LetterWritten(DomainEvent):
    """A letter to be posted."""

    folder: str
    coins: int


class Answered(DomainEvent):
    """The letter was answered."""

    coins: int


class LetterPosted(DomainEvent):
    """The letter has been posted."""


class LetterNotPosted(FailureEvent):
    """The letter was not posted."""


class Post(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """An external step with a verification, between two database steps."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, send the letter and store the stamp."""
        await saga.execute_all(pay(event.coins), send(event.folder, "dear"), put_stamp("blue"))
        return LetterPosted()


class PostUnasked(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """An external step without a verification."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay and send the letter."""
        await saga.execute_all(pay(event.coins), send_unasked(event.folder, "dear"))
        return LetterPosted()


class PostAnew(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """Wrong: an external step that ignores its idempotency key."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Send the letter."""
        await saga.execute(send_anew(event.folder, "dear"))
        return LetterPosted()


class PostForGood(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """A sleep, a wait for an event, an external step that is the pivot, and a step after it."""

    awaited = (Answered,)

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, wait for an answer, send the letter and file it away."""
        await saga.execute(pay(event.coins))
        await saga.sleep(timedelta(days=1))
        answer = await saga.wait_for(
            Answered, matching=lambda answered: answered.coins == event.coins, timeout=timedelta(days=1)
        )
        await saga.execute(send_for_good(event.folder, "dear"))
        await saga.execute(file_away("answered" if answer else "silence"))
        return LetterPosted()


class Pivots(Orchestrator[LetterWritten, LetterPosted, LetterNotPosted]):
    """An explicit pivot."""

    async def handle(self, event: LetterWritten, saga: Saga) -> LetterPosted:
        """Pay, pass the pivot and file the text away."""
        await saga.execute(pay(event.coins))
        await saga.pivot()
        await saga.execute(file_away("paid"))
        return LetterPosted()
