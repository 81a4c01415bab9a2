"""What the engine is given: the events and the operations, each with its undoing."""

from uuid import UUID

from benchmarks import ledger
from orchestrator import DomainEvent, FailureEvent, Refused, Transaction, operation


class TransferRequested(DomainEvent):
    """Money is to be transferred, each step a transaction."""

    source: int
    target: int
    amount: int


class AtomicTransferRequested(TransferRequested):
    """The same in one transaction."""


class PartitionedTransferRequested(TransferRequested):
    """As the first, in a partition."""


class PartitionedAtomicTransferRequested(TransferRequested):
    """As the second, in a partition."""


class TransferCompleted(DomainEvent):
    """Transferred."""

    record: UUID


class TransferFailed(FailureEvent):
    """Not transferred."""


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
    """Put back what was taken."""
    await ledger.add(tx, account, amount)


@operation
async def deposit(tx: Transaction, account: int, amount: int) -> None:
    """Add money to an account."""
    await ledger.add(tx, account, amount)


@deposit.compensation
async def take_back(tx: Transaction, account: int, amount: int) -> None:
    """Take back what was added."""
    await ledger.take(tx, account, amount)


@operation
async def record(tx: Transaction, source: int, target: int, amount: int) -> UUID:
    """Write down what was transferred; answers the record's id."""
    key = tx.uuid()
    await ledger.write(tx, key, source, target, amount)
    return key


@record.compensation
async def erase(tx: Transaction, result: UUID) -> None:
    """Take the record away."""
    await ledger.erase(tx, result)
