"""The engine's orchestrators: each placement, with three transactions and with one.

They are in a separate module, because Temporal's sandbox imports it again for each execution, and tables cannot be
declared twice.
"""

from benchmarks.application import (
    AtomicTransferRequested,
    PartitionedAtomicTransferRequested,
    PartitionedTransferRequested,
    TransferCompleted,
    TransferFailed,
    TransferRequested,
    deposit,
    record,
    withdraw,
)
from orchestrator import Orchestrator, Saga

PARTITIONS = 1
"""With 50 concurrent sagas, two partitions ran a fifth fewer per second and three a third fewer, in smaller waves."""


async def _in_three(event: TransferRequested, saga: Saga) -> TransferCompleted:
    _, _, key = await saga.execute_all(
        withdraw(event.source, event.amount),
        deposit(event.target, event.amount),
        record(event.source, event.target, event.amount),
    )
    return TransferCompleted(record=key)


async def _in_one(event: TransferRequested, saga: Saga) -> TransferCompleted:
    _, _, key = await saga.execute_atomically(
        withdraw(event.source, event.amount),
        deposit(event.target, event.amount),
        record(event.source, event.target, event.amount),
    )
    return TransferCompleted(record=key)


class OwnTransfer(Orchestrator[TransferRequested, TransferCompleted, TransferFailed]):
    """Three transactions, with its own execution for each saga."""

    async def handle(self, event: TransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit, record."""
        return await _in_three(event, saga)


class OwnAtomicTransfer(Orchestrator[AtomicTransferRequested, TransferCompleted, TransferFailed]):
    """One transaction, with its own execution for each saga."""

    async def handle(self, event: AtomicTransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit and record in one step."""
        return await _in_one(event, saga)


class PartitionedTransfer(Orchestrator[PartitionedTransferRequested, TransferCompleted, TransferFailed]):
    """Three transactions, with many sagas in each of a few executions."""

    partitions = PARTITIONS

    async def handle(self, event: PartitionedTransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit, record."""
        return await _in_three(event, saga)


class PartitionedAtomicTransfer(Orchestrator[PartitionedAtomicTransferRequested, TransferCompleted, TransferFailed]):
    """One transaction, with many sagas in each of a few executions."""

    partitions = PARTITIONS

    async def handle(self, event: PartitionedAtomicTransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit and record in one step."""
        return await _in_one(event, saga)
