"""Events of the category domain: what is earned and spent, by what it was for."""

from enum import StrEnum
from typing import Self

from events.identity import AccountId, CategoryId, UserId
from events.money import Currency, Money, PositiveMoney, Rate
from events.text import Note
from orchestrator.event import DomainEvent, FailureEvent


class BudgetType(StrEnum):
    """Which way a category's money goes."""

    INCOME = "income"
    EXPENSE = "expense"


class CategoryTransactionRequested(DomainEvent):
    """A user earned or spent money; the category says which."""

    user_id: UserId
    category_id: CategoryId
    account_id: AccountId
    amount: PositiveMoney
    """In the account's currency."""
    note: Note = ""

    @classmethod
    def example(cls) -> Self:
        """Groceries of the demo's user olena."""
        return cls(
            user_id=UserId("olena"),
            category_id=CategoryId("olena-groceries"),
            account_id=AccountId("olena-usd"),
            amount=Money(amount_minor=42_15, currency=Currency("USD")),
            note="market",
        )


class CategoryTransactionCompleted(DomainEvent):
    """The account, the category and the activity log have it."""

    user_id: UserId
    category_id: CategoryId
    account_id: AccountId
    budget_type: BudgetType
    amount: Money
    """In the account's currency."""
    converted: Money
    """In the category's currency."""
    rate: Rate | None
    """The rate that was used; None where both currencies are one."""


class CategoryTransactionFailed(FailureEvent):
    """Nothing was earned or spent."""


class CategoryResetRequested(DomainEvent):
    """A user wants every category of one budget type to start again from zero."""

    user_id: UserId
    budget_type: BudgetType

    @classmethod
    def example(cls) -> Self:
        """The expenses of the demo's user olena."""
        return cls(user_id=UserId("olena"), budget_type=BudgetType.EXPENSE)


class CategoryResetCompleted(DomainEvent):
    """The categories are at zero."""

    user_id: UserId
    budget_type: BudgetType
    categories: int
    """How many there are."""


class CategoryResetFailed(FailureEvent):
    """Every category has what it had."""
