"""A small domain, declared as an author would, that `right_forms` and `mistakes` use."""

from typing import NewType

from orchestrator import Contract, DomainEvent, FailureEvent, Transaction, operation, query

AccountId = NewType("AccountId", str)
UserId = NewType("UserId", str)


class Money(Contract):
    """An amount in a currency's minor unit."""

    minor: int


class MoveRequested(DomainEvent):
    """The request to move money."""

    account: AccountId
    amount: Money


class MoveCompleted(DomainEvent):
    """Money has been moved."""

    amount: Money


class MoveFailed(FailureEvent):
    """Money was not moved."""


@operation
async def withdraw(tx: Transaction, account: AccountId, amount: Money) -> Money:
    """Take money out."""
    return amount


@withdraw.compensation
async def put_back(tx: Transaction, account: AccountId, amount: Money, result: Money) -> None:
    """Put the money back."""


@operation(irreversible="a letter cannot be called back")
async def send_letter(tx: Transaction, account: AccountId, *, copies: int = 1) -> None:
    """Send a letter."""


@query
async def count(tx: Transaction) -> int:
    """Number of accounts."""
    return 1


@query
async def label(tx: Transaction, account: AccountId) -> str | None:
    """The name that the owner has given to the account, if any."""
    return None
