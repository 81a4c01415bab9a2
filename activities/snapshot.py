"""The snapshot domain: the state of each month when it ended. It knows no other domain."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, delete
from sqlmodel import Field, SQLModel, col

from activities.statements import must_have_changed
from events.category import BudgetType
from events.identity import CategoryId, UserId
from events.money import Currency
from events.month import Month
from orchestrator import Transaction, operation
from orchestrator.event import Contract
from orchestrator.store.core.columns import UtcTime


class MonthSnapshot(SQLModel, table=True):
    """One month of one user. Every amount is in the minor unit of `currency`."""

    __tablename__ = "month_snapshot"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("month_balance = income - expense", name="month_snapshot_balanced"),
        CheckConstraint("length(month) = 7", name="month_snapshot_month_whole"),
    )

    user_id: str = Field(primary_key=True, max_length=64)
    month: str = Field(primary_key=True, max_length=7)
    currency: str = Field(max_length=3)
    """The display currency at that time."""
    income: int = Field(sa_type=BigInteger)
    expense: int = Field(sa_type=BigInteger)
    month_balance: int = Field(sa_type=BigInteger)
    """Income minus expense."""
    full_balance: int = Field(sa_type=BigInteger)
    """The sum of all accounts."""
    taken_at: datetime = Field(sa_type=UtcTime)


class MonthCategory(SQLModel, table=True):
    """One category at the end of a month."""

    __tablename__ = "month_category"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "month"], ["month_snapshot.user_id", "month_snapshot.month"], name="fk_month_category_month"
        ),
        ForeignKeyConstraint(
            ["user_id", "category_id"], ["category.user_id", "category.id"], name="fk_month_category_category_id"
        ),
        CheckConstraint("budget_type IN ('income', 'expense')", name="month_category_budget_type_known"),
    )

    user_id: str = Field(primary_key=True, max_length=64)
    month: str = Field(primary_key=True, max_length=7)
    category_id: str = Field(primary_key=True, max_length=64)
    name: str = Field(max_length=100)
    budget_type: str = Field(max_length=7)
    value: int = Field(sa_type=BigInteger)


class CategoryOfMonth(Contract):
    """A category's value in a month."""

    category_id: CategoryId
    """The category's id."""
    name: str
    """Its name at that time."""
    budget_type: BudgetType
    """Whether it collects incomes or expenses."""
    value: int
    """In the minor unit of the month's currency."""


@operation
async def save_month(
    tx: Transaction,
    user_id: UserId,
    month: Month,
    currency: Currency,
    full_balance: int,
    categories: tuple[CategoryOfMonth, ...],
) -> None:
    """Save a month: its categories, their sums, and the sum of all accounts."""
    income = sum(category.value for category in categories if category.budget_type is BudgetType.INCOME)
    expense = sum(category.value for category in categories if category.budget_type is BudgetType.EXPENSE)
    tx.add(
        MonthSnapshot(
            user_id=user_id,
            month=month,
            currency=currency,
            income=income,
            expense=expense,
            month_balance=income - expense,
            full_balance=full_balance,
            taken_at=tx.event_time,
        )
    )
    await tx.flush()
    for category in categories:
        tx.add(
            MonthCategory(
                user_id=user_id,
                month=month,
                category_id=category.category_id,
                name=category.name,
                budget_type=category.budget_type,
                value=category.value,
            )
        )


@save_month.compensation
async def remove_month(tx: Transaction, user_id: UserId, month: Month) -> None:
    """Delete the saved month again."""
    await tx.exec(delete(MonthCategory).where(col(MonthCategory.user_id) == user_id, col(MonthCategory.month) == month))
    removed = await tx.exec(
        delete(MonthSnapshot).where(col(MonthSnapshot.user_id) == user_id, col(MonthSnapshot.month) == month)
    )
    must_have_changed(removed, f"the snapshot of {month}")
