"""The bank's orchestrators: the same transfer, in every shape a saga has, in every placement.

Another placement is an orchestrator more, with its three events, in `tests.chaos.bank`.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from orchestrator import DomainEvent, FailureEvent, OperationCall, Orchestrator, Saga
from tests.chaos.accounts import Moment, balance, deliver, move, note, record

Shape = Literal["steps", "parallel", "atomic", "nap", "lingers", "pivot", "locked", "journal"]
SHAPES: tuple[Shape, ...] = ("steps", "parallel", "atomic", "nap", "lingers", "pivot", "locked", "journal")
OUT, INTO, NOTED, CAME = "out", "into", "noted", "came"
"""Parts of a transfer: what each leaves entries under."""


class Transfer(DomainEvent):
    """Move money, in a shape that shows something of the engine."""

    shape: Shape
    source: str
    target: str
    amount: int
    refuse: bool = False
    pause_ms: int = 0
    """How long an operation dawdles."""
    pause: Moment = "before"
    key: str | None = None
    sequence: int = 0
    """Of the events of one key: they must be handled in this order."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What it leaves exactly one entry each under, once completed."""
        return (CAME, OUT, INTO, NOTED) if self.key is not None else (OUT, INTO, NOTED)


class Moved(DomainEvent):
    """Moved."""

    amount: int


async def transfer(event: Transfer, saga: Saga) -> None:
    """The one process of all placements."""
    if event.key is not None:
        await saga.execute(note(CAME, False, event.key, event.sequence))
    out = move(OUT, event.source, -event.amount, event.pause_ms, event.pause)
    match event.shape:
        case "parallel":
            await saga.execute_batch(balance(event.source), out, _into(event), _noted(event), parallel=True)
        case "atomic":
            await saga.execute_atomically(balance(event.source), out, _into(event))
            await saga.execute(_noted(event))
        case "nap":
            await saga.execute(out)
            await saga.sleep(timedelta(milliseconds=300))
            await saga.execute_batch(_into(event), _noted(event))
        case "lingers":
            await saga.execute_batch(out, _into(event), _noted(event))
            # Between its last step and its end, where nothing is recorded: long enough to be cancelled there.
            await asyncio.sleep(0.3)
        case "pivot":
            await saga.execute_batch(out, _noted(event))
            await saga.pivot()
            await saga.execute(deliver(INTO, event.target, event.amount))
        case "journal":
            await saga.execute_batch(out, record(NOTED, event.refuse, min(event.pause_ms, 300)), _into(event))
        case _:
            await saga.execute_batch(out, _into(event), _noted(event))


def _into(event: Transfer) -> OperationCall[None]:
    return move(INTO, event.target, event.amount, 0, "before")


def _noted(event: Transfer) -> OperationCall[None]:
    return note(NOTED, event.refuse, None, 0)


def _locks(event: Transfer) -> Sequence[str]:
    return [f"account/{event.source}", f"account/{event.target}"] if event.shape == "locked" else ()


class OwnTransfer(Transfer):
    """For an execution of its own."""


class OwnTransferMade(Moved):
    """Moved."""


class OwnTransferFailed(FailureEvent):
    """Not moved."""


class OwnTransfers(Orchestrator[OwnTransfer, OwnTransferMade, OwnTransferFailed]):
    """Each saga in an execution of its own."""

    def locks(self, event: OwnTransfer) -> Sequence[str]:
        """Both accounts, in the shape that locks."""
        return _locks(event)

    async def handle(self, event: OwnTransfer, saga: Saga) -> OwnTransferMade:
        """Transfer."""
        await transfer(event, saga)
        return OwnTransferMade(amount=event.amount)


class PooledTransfer(Transfer):
    """For a partition."""


class PooledTransferMade(Moved):
    """Moved."""


class PooledTransferFailed(FailureEvent):
    """Not moved."""


class PooledTransfers(Orchestrator[PooledTransfer, PooledTransferMade, PooledTransferFailed]):
    """In partitions."""

    partitions = 4

    def locks(self, event: PooledTransfer) -> Sequence[str]:
        """Both accounts, in the shape that locks."""
        return _locks(event)

    async def handle(self, event: PooledTransfer, saga: Saga) -> PooledTransferMade:
        """Transfer."""
        await transfer(event, saga)
        return PooledTransferMade(amount=event.amount)


class OrderedTransfer(Transfer):
    """For a partition, one after the other for each key."""


class OrderedTransferMade(Moved):
    """Moved."""


class OrderedTransferFailed(FailureEvent):
    """Not moved."""


class OrderedTransfers(Orchestrator[OrderedTransfer, OrderedTransferMade, OrderedTransferFailed]):
    """In partitions, in the order of arrival for each key."""

    partitions = 4

    def ordering_key(self, event: OrderedTransfer) -> str | None:
        """The event's own."""
        return event.key

    async def handle(self, event: OrderedTransfer, saga: Saga) -> OrderedTransferMade:
        """Transfer."""
        await transfer(event, saga)
        return OrderedTransferMade(amount=event.amount)
