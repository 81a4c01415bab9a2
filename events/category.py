"""Events of the category domain: incomes and expenses by category."""

from enum import StrEnum
from typing import Self

from events.identity import AccountId, CategoryId, UserId
from events.money import Currency, Money, PositiveMoney, Rate
from events.text import Note
from orchestrator.event import DomainEvent, FailureEvent


class BudgetType(StrEnum):
    """Whether a category collects incomes or expenses."""

    INCOME = "income"
    EXPENSE = "expense"


class CategoryTransactionRequested(DomainEvent):
    """A user earned or spent money. The category determines which."""

    user_id: UserId
    category_id: CategoryId
    account_id: AccountId
    amount: PositiveMoney
    """The amount in the account's currency."""
    note: Note = ""

    @classmethod
    def example(cls) -> Self:
        """Return a purchase of groceries by the demo's user olena."""
        return cls(
            user_id=UserId("olena"),
            category_id=CategoryId("olena-groceries"),
            account_id=AccountId("olena-usd"),
            amount=Money(amount_minor=42_15, currency=Currency("USD")),
            note="market",
        )


class CategoryTransactionCompleted(DomainEvent):
    """The transaction is in the account, the category and the activity log."""

    user_id: UserId
    category_id: CategoryId
    account_id: AccountId
    budget_type: BudgetType
    amount: Money
    """The amount in the account's currency."""
    converted: Money
    """The amount in the category's currency."""
    rate: Rate | None
    """The rate that was used; None if both currencies are the same."""


class CategoryTransactionFailed(FailureEvent):
    """The transaction was not recorded."""


class CategoryResetRequested(DomainEvent):
    """A user requested to set every category of one budget type to zero."""

    user_id: UserId
    budget_type: BudgetType

    @classmethod
    def example(cls) -> Self:
        """Return a reset of the expense categories of the demo's user olena."""
        return cls(user_id=UserId("olena"), budget_type=BudgetType.EXPENSE)


class CategoryResetCompleted(DomainEvent):
    """The categories were set to zero."""

    user_id: UserId
    budget_type: BudgetType
    categories: int
    """The number of categories that were reset."""


class CategoryResetFailed(FailureEvent):
    """The categories are unchanged."""
