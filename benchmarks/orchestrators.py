"""The engine's sagas: each placement, with three transactions and with one.

A module of their own: Temporal's sandbox imports it anew for each execution, which tables would not survive.
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
"""With 50 sagas at once two carried a fifth less, and three a third less: their waves are smaller."""


async def _in_three(event: TransferRequested, saga: Saga) -> TransferCompleted:
    _, _, key = await saga.execute_batch(
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
    """Three transactions, an execution for each saga."""

    async def handle(self, event: TransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit, record."""
        return await _in_three(event, saga)


class OwnAtomicTransfer(Orchestrator[AtomicTransferRequested, TransferCompleted, TransferFailed]):
    """One transaction, an execution for each saga."""

    async def handle(self, event: AtomicTransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit and record at once."""
        return await _in_one(event, saga)


class PartitionedTransfer(Orchestrator[PartitionedTransferRequested, TransferCompleted, TransferFailed]):
    """Three transactions, many sagas in each of a few executions."""

    partitions = PARTITIONS

    async def handle(self, event: PartitionedTransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit, record."""
        return await _in_three(event, saga)


class PartitionedAtomicTransfer(Orchestrator[PartitionedAtomicTransferRequested, TransferCompleted, TransferFailed]):
    """One transaction, many sagas in each of a few executions."""

    partitions = PARTITIONS

    async def handle(self, event: PartitionedAtomicTransferRequested, saga: Saga) -> TransferCompleted:
        """Withdraw, deposit and record at once."""
        return await _in_one(event, saga)
