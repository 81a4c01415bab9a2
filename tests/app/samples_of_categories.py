"""Ids of the demo's categories, and builders of example events with changed fields."""

from typing import Any

from events.account import AccountValueEditRequested
from events.activity_log import ActivityRecordRemovalRequested
from events.category import BudgetType, CategoryResetRequested, CategoryTransactionRequested
from events.identity import CategoryId
from events.metadata import CurrencyChangeRequested
from events.money import Currency, Money
from events.month import Month
from events.snapshot import MonthResetRequested
from starter.users import system_category_id
from tests.app.samples import OLENA

SALARY = CategoryId("olena-salary")
GROCERIES = CategoryId("olena-groceries")
PENSION = CategoryId("taras-pension")
FOUND = system_category_id(OLENA, BudgetType.INCOME)
LOST = system_category_id(OLENA, BudgetType.EXPENSE)


def uah(kopiykas: int) -> Money:
    """An amount in kopiykas."""
    return Money(amount_minor=kopiykas, currency=Currency("UAH"))


def spending(**changed: Any) -> CategoryTransactionRequested:
    """The example with changed fields: olena spends $42.15 on groceries."""
    return CategoryTransactionRequested(**{**dict(CategoryTransactionRequested.example()), **changed})


def earning(**changed: Any) -> CategoryTransactionRequested:
    """The same amount as a salary."""
    return spending(**{"category_id": SALARY, "note": "", **changed})


def editing(**changed: Any) -> AccountValueEditRequested:
    """The example with changed fields: olena-usd holds $50 less."""
    return AccountValueEditRequested(**{**dict(AccountValueEditRequested.example()), **changed})


def removing(record: Any, **changed: Any) -> ActivityRecordRemovalRequested:
    """A request to remove one of olena's records."""
    fields: dict[str, Any] = {"user_id": OLENA, "record_id": record}
    return ActivityRecordRemovalRequested(**{**fields, **changed})


def resetting(budget_type: BudgetType = BudgetType.EXPENSE) -> CategoryResetRequested:
    """A request to reset olena's categories of one budget type."""
    return CategoryResetRequested(user_id=OLENA, budget_type=budget_type)


def changing(code: str) -> CurrencyChangeRequested:
    """A request to change olena's display currency, which is the hryvnia."""
    return CurrencyChangeRequested(user_id=OLENA, currency=Currency(code))


def ending(month: str = "2026-01") -> MonthResetRequested:
    """A request to end one of olena's months."""
    return MonthResetRequested(user_id=OLENA, month=Month(month))
