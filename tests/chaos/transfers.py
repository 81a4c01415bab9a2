"""The bank's orchestrators: the same transfer in every shape of a saga and in every placement.

For another placement, add an orchestrator with its three events here and in `tests.chaos.bank`.
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
"""The parts of a transfer, each of which leaves an entry."""


class Transfer(DomainEvent):
    """Asks to move money, with a saga of the given shape."""

    shape: Shape
    source: str
    target: str
    amount: int
    refuse: bool = False
    pause_ms: int = 0
    """How long an operation pauses."""
    pause: Moment = "before"
    key: str | None = None
    sequence: int = 0
    """The position of the event among those with its key; they must be handled in this order."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that leave exactly one entry each if the transfer completes."""
        return (CAME, OUT, INTO, NOTED) if self.key is not None else (OUT, INTO, NOTED)


class Moved(DomainEvent):
    """The money has been moved."""

    amount: int


async def transfer(event: Transfer, saga: Saga) -> None:
    """Run the transfer; every placement uses this function."""
    if event.key is not None:
        await saga.execute(note(CAME, False, event.key, event.sequence))
    out = move(OUT, event.source, -event.amount, event.pause_ms, event.pause)
    match event.shape:
        case "parallel":
            await saga.execute_all(balance(event.source), out, _into(event), _noted(event), parallel=True)
        case "atomic":
            await saga.execute_atomically(balance(event.source), out, _into(event))
            await saga.execute(_noted(event))
        case "nap":
            await saga.execute(out)
            await saga.sleep(timedelta(milliseconds=300))
            await saga.execute_all(_into(event), _noted(event))
        case "lingers":
            await saga.execute_all(out, _into(event), _noted(event))
            # Wait between the last step and the end, where nothing is recorded, long enough to be cancelled there.
            await asyncio.sleep(0.3)
        case "pivot":
            await saga.execute_all(out, _noted(event))
            await saga.pivot()
            await saga.execute(deliver(INTO, event.target, event.amount))
        case "journal":
            await saga.execute_all(out, record(NOTED, event.refuse, min(event.pause_ms, 300)), _into(event))
        case _:
            await saga.execute_all(out, _into(event), _noted(event))


def _into(event: Transfer) -> OperationCall[None]:
    return move(INTO, event.target, event.amount, 0, "before")


def _noted(event: Transfer) -> OperationCall[None]:
    return note(NOTED, event.refuse, None, 0)


def _locks(event: Transfer) -> Sequence[str]:
    return [f"account/{event.source}", f"account/{event.target}"] if event.shape == "locked" else ()


class OwnTransfer(Transfer):
    """A transfer for an execution of the saga's own."""


class OwnTransferMade(Moved):
    """The money has been moved."""


class OwnTransferFailed(FailureEvent):
    """The money has not been moved."""


class OwnTransfers(Orchestrator[OwnTransfer, OwnTransferMade, OwnTransferFailed]):
    """Drives each saga in its own execution."""

    def locks(self, event: OwnTransfer) -> Sequence[str]:
        return _locks(event)

    async def handle(self, event: OwnTransfer, saga: Saga) -> OwnTransferMade:
        await transfer(event, saga)
        return OwnTransferMade(amount=event.amount)


class PooledTransfer(Transfer):
    """A transfer for a partition."""


class PooledTransferMade(Moved):
    """The money has been moved."""


class PooledTransferFailed(FailureEvent):
    """The money has not been moved."""


class PooledTransfers(Orchestrator[PooledTransfer, PooledTransferMade, PooledTransferFailed]):
    """Drives the sagas in partitions."""

    partitions = 4

    def locks(self, event: PooledTransfer) -> Sequence[str]:
        return _locks(event)

    async def handle(self, event: PooledTransfer, saga: Saga) -> PooledTransferMade:
        await transfer(event, saga)
        return PooledTransferMade(amount=event.amount)


class OrderedTransfer(Transfer):
    """A transfer for a partition that handles the events of a key in order."""


class OrderedTransferMade(Moved):
    """The money has been moved."""


class OrderedTransferFailed(FailureEvent):
    """The money has not been moved."""


class OrderedTransfers(Orchestrator[OrderedTransfer, OrderedTransferMade, OrderedTransferFailed]):
    """Drives the sagas in partitions, in the order of arrival for each key."""

    partitions = 4

    def ordering_key(self, event: OrderedTransfer) -> str | None:
        return event.key

    async def handle(self, event: OrderedTransfer, saga: Saga) -> OrderedTransferMade:
        await transfer(event, saga)
        return OrderedTransferMade(amount=event.amount)
