"""An orchestrator with steps after its pivot, one of which returns a result that `handle` needs."""

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga, Transaction, operation
from tests.cast import Script, send_letter, take


class MailingRequested(DomainEvent):
    """Asks to send a letter, to stamp it and to file it."""

    source: str


class MailingCompleted(DomainEvent):
    """The letter has been sent and filed."""

    filed: int


class MailingFailed(FailureEvent):
    """The letter has not been sent."""


async def _run(name: str, tx: Transaction) -> None:
    Script.runs.append(name)
    if name in Script.before:
        await Script.before[name](tx)


@operation(retriable=True)
async def stamp(tx: Transaction, text: str) -> None:
    """Stamp a letter that has been sent."""
    await _run("stamp", tx)


@operation(retriable=True)
async def file_away(tx: Transaction, shelf: int) -> int:
    """File a letter that has been sent, and return its shelf."""
    await _run("file_away", tx)
    return shelf


class Mailing(Orchestrator[MailingRequested, MailingCompleted, MailingFailed]):
    """A step that can be undone, the pivot, and two steps after it."""

    async def handle(self, event: MailingRequested, saga: Saga) -> MailingCompleted:
        await saga.execute(take(event.source, 1))
        await saga.execute(send_letter("coins inside"))
        await saga.execute(stamp("sent"))
        return MailingCompleted(filed=await saga.execute(file_away(7)))
