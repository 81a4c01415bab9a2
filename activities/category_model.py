"""The category domain's tables, and the results that its operations record."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from activities.columns import ExactDecimal
from events.category import BudgetType
from events.identity import CategoryId
from events.money import MONEY_LIMIT, Currency
from orchestrator.event import Contract
from orchestrator.store.core.columns import UtcTime

VALUE_CEILING = MONEY_LIMIT * 1_000
"""The column's bound in both directions. An operation refuses at `MONEY_LIMIT`; a compensation never refuses."""

_IS_SYSTEM = text("is_system")


class Category(SQLModel, table=True):
    """One category of one user."""

    __table_args__ = (
        CheckConstraint("budget_type IN ('income', 'expense')", name="category_budget_type_known"),
        CheckConstraint(f"value BETWEEN -{VALUE_CEILING} AND {VALUE_CEILING}", name="category_value_bounded"),
        CheckConstraint("0 <= counted_from AND counted_from <= reset_epoch", name="category_reset_epoch_in_order"),
        CheckConstraint("currency_epoch >= 0", name="category_currency_epoch_not_negative"),
        Index("uq_category_user_id_id", "user_id", "id", unique=True),
        # Every user has two system categories, one of each type, for balance adjustments.
        Index(
            "uq_category_system",
            "user_id",
            "budget_type",
            unique=True,
            postgresql_where=_IS_SYSTEM,
            sqlite_where=_IS_SYSTEM,
        ),
    )

    id: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(max_length=64)
    name: str = Field(max_length=100)
    budget_type: str = Field(max_length=7)
    currency: str = Field(max_length=3)
    value: int = Field(default=0, sa_type=BigInteger)
    """The sum since the last reset, in the currency's minor unit."""
    reset_epoch: int = 0
    """How often the category was reset. Each record stores the epoch in which it was added."""
    counted_from: int = 0
    """The first epoch whose records make up the value. It is less than `reset_epoch` only if a reset was undone after
    other sagas had added to the category."""
    currency_epoch: int = 0
    """How often the currency of the user's categories was changed."""
    icon: str = Field(max_length=64)
    colour: str = Field(max_length=7)
    is_system: bool = False
    """True for a category that receives balance adjustments."""
    reset_at: datetime | None = Field(default=None, sa_type=UtcTime)
    """Time of the last reset, for display only; None before the first."""


class CategoryConversion(SQLModel, table=True):
    """One change of the currency that a user's categories are kept in."""

    __tablename__ = "category_conversion"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("currency_epoch > 0", name="category_conversion_epoch_positive"),)

    user_id: str = Field(primary_key=True, max_length=64)
    currency_epoch: int = Field(primary_key=True)
    """The number of the change; the first is 1."""
    currency_from: str = Field(max_length=3)
    currency_to: str = Field(max_length=3)
    rate: Decimal = Field(sa_type=ExactDecimal)


class CategoryDetails(Contract):
    """A category's type and currency, as the operations of other domains need them."""

    category_id: CategoryId
    """The category's id."""
    budget_type: BudgetType
    """Whether the category collects incomes or expenses."""
    currency: Currency
    """The currency that the category is kept in."""
    currency_epoch: int
    """The category's currency epoch. `add` compares it, to notice that the currency has changed since."""


class Epochs(Contract):
    """A category's counters at the time when an amount was added."""

    reset_epoch: int
    """How often the category had been reset."""
    currency_epoch: int
    """How often its currency had changed when the amount was converted."""


class TakenOut(Contract):
    """What the removal of a record subtracted from its category."""

    amount: int
    """The subtracted amount in the category's current minor unit; 0 if the category was reset after the record."""
    was_reset_since: bool
    """Whether the category was reset after the record was added."""
    reset_epoch: int
    """The record's reset epoch."""
    currency_epoch: int
    """The currency epoch of `amount`."""


class CategoryBeforeReset(Contract):
    """A category just before it was reset."""

    category_id: CategoryId
    """The category's id."""
    name: str
    """Its name."""
    budget_type: BudgetType
    """Whether it collects incomes or expenses."""
    currency: Currency
    """The currency that it is kept in."""
    value: int
    """Its sum, in the currency's minor unit."""
    reset_epoch: int
    """Its reset epoch before the reset."""
    counted_from: int
    """Its first counted epoch before the reset."""
    currency_epoch: int
    """The currency epoch of `value`."""
    reset_at: datetime | None
    """The time of the previous reset; None if there was none."""


class ConvertedValue(Contract):
    """A category's value before and after a change of currency."""

    category_id: CategoryId
    """The category's id."""
    before: int
    """Its value in the old minor unit."""
    after: int
    """Its value in the new minor unit."""


class Conversion(Contract):
    """What a change of currency did to a user's categories."""

    currency_epoch: int
    """The number of the change."""
    values: tuple[ConvertedValue, ...]
    """The values of all the user's categories."""
