"""Operations that declare how they are retried, and the same saga of them in both placements."""

from datetime import timedelta
from time import monotonic
from typing import ClassVar

from orchestrator import (
    Catalog,
    Confirmed,
    DomainEvent,
    ExternalCall,
    FailureEvent,
    Orchestrator,
    Refused,
    Retry,
    Saga,
    Transaction,
    external_operation,
    operation,
    query,
)

QUICK = Retry(first_wait=timedelta(milliseconds=20), factor=1.0, attempts=3)
GROWING = Retry(first_wait=timedelta(milliseconds=300), factor=2.0, maximum_wait=timedelta(milliseconds=500))
SLOW = Retry(first_wait=timedelta(seconds=2), attempts=2)


class CardBlocked(Exception):
    """An error that no retry mends."""


class Trials:
    """What each operation does, and when it ran."""

    errors: ClassVar[dict[str, list[Exception]]] = {}
    """For each operation, the errors of its attempts; the last one is repeated."""
    succeeds_after: ClassVar[dict[str, int]] = {}
    """For each operation, the number of attempts that fail."""
    runs: ClassVar[dict[str, list[float]]] = {}

    @classmethod
    def clear(cls) -> None:
        """Forget everything."""
        cls.errors.clear()
        cls.succeeds_after.clear()
        cls.runs.clear()

    @classmethod
    def run(cls, name: str) -> None:
        """Run an operation: raise, or return if it succeeds now."""
        times = cls.runs.setdefault(name, [])
        times.append(monotonic())
        errors = cls.errors.get(name)
        if errors and len(times) <= cls.succeeds_after.get(name, 1_000):
            raise errors[min(len(times), len(errors)) - 1]


@operation(retry=QUICK, never_retry=(CardBlocked,))
async def lend(tx: Transaction) -> None:
    """Three attempts."""
    Trials.run("lend")


@lend.compensation(retry=GROWING)
async def take_back(tx: Transaction) -> None:
    """Waits that grow."""
    Trials.run("take_back")


@operation(retry=Retry(attempts=1))
async def lend_once(tx: Transaction) -> None:
    """One attempt."""
    Trials.run("lend_once")


@lend_once.compensation
async def take_once_back(tx: Transaction) -> None:
    """Nothing."""


@operation(retry=SLOW)
async def lend_slowly(tx: Transaction) -> None:
    """Two attempts, far from each other."""
    Trials.run("lend_slowly")


@lend_slowly.compensation
async def take_slowly_back(tx: Transaction) -> None:
    """Nothing."""


@operation(retry=GROWING)
async def lend_patiently(tx: Transaction) -> None:
    """Waits that grow."""
    Trials.run("lend_patiently")


@lend_patiently.compensation
async def take_patiently_back(tx: Transaction) -> None:
    """Nothing."""


@query(retry=Retry(first_wait=timedelta(milliseconds=20), attempts=1), never_retry=(CardBlocked,))
async def ask(tx: Transaction) -> None:
    """One attempt, unless it is past the pivot."""
    Trials.run("ask")


@external_operation(never_retry=(CardBlocked,), time_limit=timedelta(milliseconds=200))
async def charge(call: ExternalCall) -> int:
    """Charge, and lose the answer."""
    Trials.run("charge")
    return 1


@charge.compensation
async def refund(call: ExternalCall, result: int) -> None:
    """Give it back."""
    Trials.run("refund")


@charge.verification
async def find_charge(call: ExternalCall) -> Confirmed[int] | None:
    """It has happened."""
    return Confirmed(1)


class LoanRequested(DomainEvent):
    """Lend in some way."""

    way: str = "lend"


class LoanCompleted(DomainEvent):
    """Lent."""


class LoanFailed(FailureEvent):
    """Not lent."""


async def _lend(way: str, saga: Saga) -> None:
    match way:
        case "lend":
            await saga.execute(lend())
        case "once":
            await saga.execute(lend_once())
        case "slowly":
            await saga.execute(lend_slowly())
        case "patiently":
            await saga.execute(lend_patiently())
        case "atomic":
            await saga.execute_atomically(lend_patiently(), lend())
        case "external":
            await saga.execute(charge())
        case "past pivot":
            await saga.pivot()
            await saga.execute(ask())
        case _:
            await saga.execute(lend())
            raise Refused("loan.refused", "after it was lent")


class Loan(Orchestrator[LoanRequested, LoanCompleted, LoanFailed]):
    """In its own execution."""

    async def handle(self, event: LoanRequested, saga: Saga) -> LoanCompleted:
        """Lend."""
        await _lend(event.way, saga)
        return LoanCompleted()


class SharedLoanRequested(LoanRequested):
    """Lend in some way, in a partition."""


class SharedLoanCompleted(DomainEvent):
    """Lent."""


class SharedLoanFailed(FailureEvent):
    """Not lent."""


class SharedLoan(Orchestrator[SharedLoanRequested, SharedLoanCompleted, SharedLoanFailed]):
    """In a partition."""

    partitions = 1

    async def handle(self, event: SharedLoanRequested, saga: Saga) -> SharedLoanCompleted:
        """Lend."""
        await _lend(event.way, saga)
        return SharedLoanCompleted()


CATALOG = Catalog.of(
    orchestrators=[Loan, SharedLoan],
    operations=[lend, lend_once, lend_slowly, lend_patiently, ask, charge],
)
