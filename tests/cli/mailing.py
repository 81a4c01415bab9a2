"""An orchestrator with steps after its pivot, one of which gives a result that `handle` goes on with."""

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga, Transaction, operation
from tests.cast import Script, send_letter, take


class MailingRequested(DomainEvent):
    """Send a letter, stamp it in the books, file it."""

    source: str


class MailingCompleted(DomainEvent):
    """Sent, stamped or not, and filed."""

    filed: int


class MailingFailed(FailureEvent):
    """Not sent."""


async def _play(name: str, tx: Transaction) -> None:
    Script.runs.append(name)
    if name in Script.before:
        await Script.before[name](tx)


@operation(retriable=True)
async def stamp(tx: Transaction, text: str) -> None:
    """Stamp a letter that is sent."""
    await _play("stamp", tx)


@operation(retriable=True)
async def file_away(tx: Transaction, shelf: int) -> int:
    """File a letter that is sent; answers where."""
    await _play("file_away", tx)
    return shelf


class Mailing(Orchestrator[MailingRequested, MailingCompleted, MailingFailed]):
    """A step that can be undone, the pivot, and two after it."""

    async def handle(self, event: MailingRequested, saga: Saga) -> MailingCompleted:
        """Take, send, stamp, file."""
        await saga.execute(take(event.source, 1))
        await saga.execute(send_letter("coins inside"))
        await saga.execute(stamp("sent"))
        return MailingCompleted(filed=await saga.execute(file_away(7)))
