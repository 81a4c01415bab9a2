"""The benchmark's application for the engine: events, and operations with their compensations."""

from uuid import UUID

from benchmarks import ledger
from orchestrator import DomainEvent, FailureEvent, Refused, Transaction, operation


class TransferRequested(DomainEvent):
    """A client has requested a transfer whose steps are separate transactions."""

    source: int
    target: int
    amount: int


class AtomicTransferRequested(TransferRequested):
    """A client has requested a transfer in one transaction."""


class PartitionedTransferRequested(TransferRequested):
    """A client has requested a transfer whose steps are separate transactions, in a partition."""


class PartitionedAtomicTransferRequested(TransferRequested):
    """A client has requested a transfer in one transaction, in a partition."""


class TransferCompleted(DomainEvent):
    """The money was transferred."""

    record: UUID


class TransferFailed(FailureEvent):
    """The money was not transferred."""


@operation
async def withdraw(tx: Transaction, account: int, amount: int) -> None:
    """Take money out of an account.

    Raises:
        Refused: `ledger.insufficient_funds`.
    """
    try:
        await ledger.take(tx, account, amount)
    except ledger.InsufficientFunds as fault:
        raise Refused("ledger.insufficient_funds", str(fault)) from fault


@withdraw.compensation
async def put_back(tx: Transaction, account: int, amount: int) -> None:
    """Add the withdrawn money back."""
    await ledger.add(tx, account, amount)


@operation
async def deposit(tx: Transaction, account: int, amount: int) -> None:
    """Add money to an account."""
    await ledger.add(tx, account, amount)


@deposit.compensation
async def take_back(tx: Transaction, account: int, amount: int) -> None:
    """Take the deposited money out again."""
    await ledger.take(tx, account, amount)


@operation
async def record(tx: Transaction, source: int, target: int, amount: int) -> UUID:
    """Record the transfer, and return the record's id."""
    key = tx.uuid()
    await ledger.write(tx, key, source, target, amount)
    return key


@record.compensation
async def erase(tx: Transaction, result: UUID) -> None:
    """Delete the record."""
    await ledger.erase(tx, result)
