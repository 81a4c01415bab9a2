"""The activity log's table, and the result that its operations record."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index
from sqlmodel import Field, SQLModel

from activities.columns import ExactDecimal
from events.category import BudgetType
from events.identity import AccountId, CategoryId
from events.money import MONEY_LIMIT, NaturalMoney, Rate
from orchestrator.event import Contract
from orchestrator.store.core.columns import UtcTime


class RecordKind(StrEnum):
    """The kinds of records, one per kind of change."""

    ACCOUNT_CREATED = "account_created"
    MONEY_TRANSFER = "money_transfer"
    CATEGORY_VALUE_CHANGE = "category_value_change"
    CATEGORIES_RESET = "categories_reset"
    CURRENCY_CHANGE = "currency_change"


class ActivityRecord(SQLModel, table=True):
    """One change of a user's money. The kind determines which of the columns after `event_id` are filled."""

    __tablename__ = "activity_record"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint(
            "kind <> 'account_created' OR (account_id IS NOT NULL AND amount IS NOT NULL AND currency IS NOT NULL)",
            name="activity_record_account_created_whole",
        ),
        CheckConstraint(
            "kind <> 'money_transfer' OR (from_account_id IS NOT NULL AND to_account_id IS NOT NULL"
            " AND amount_out > 0 AND currency_out IS NOT NULL AND amount_in > 0 AND currency_in IS NOT NULL)",
            name="activity_record_money_transfer_whole",
        ),
        CheckConstraint(
            "kind <> 'category_value_change' OR (account_id IS NOT NULL AND category_id IS NOT NULL AND amount >= 0"
            " AND currency IS NOT NULL AND converted >= 0 AND converted_currency IS NOT NULL"
            " AND budget_type IN ('income', 'expense') AND reset_epoch >= 0 AND currency_epoch >= 0"
            " AND note IS NOT NULL)",
            name="activity_record_category_value_change_whole",
        ),
        CheckConstraint(
            "kind <> 'categories_reset' OR budget_type IN ('income', 'expense')",
            name="activity_record_categories_reset_whole",
        ),
        CheckConstraint(
            "kind <> 'currency_change' OR (currency_from <> currency_to AND rate IS NOT NULL AND currency_epoch > 0)",
            name="activity_record_currency_change_whole",
        ),
        CheckConstraint(
            "kind IN ('account_created', 'money_transfer', 'category_value_change', 'categories_reset',"
            " 'currency_change')",
            name="activity_record_kind_known",
        ),
        CheckConstraint(
            "removing IS NULL OR kind = 'category_value_change'", name="activity_record_removing_removable"
        ),
        CheckConstraint(f"converted <= {MONEY_LIMIT}", name="activity_record_converted_bounded"),
        # The keys include the user, so that a record cannot name another user's account. Accounts and categories are
        # never deleted once others may use them, so none of these keys can make a compensation fail.
        *(
            ForeignKeyConstraint(
                ["user_id", column], [f"{table}.user_id", f"{table}.id"], name=f"fk_activity_record_{column}"
            )
            for column, table in (
                ("account_id", "account"),
                ("from_account_id", "account"),
                ("to_account_id", "account"),
                ("category_id", "category"),
            )
        ),
        CheckConstraint(f"amount BETWEEN -{MONEY_LIMIT} AND {MONEY_LIMIT}", name="activity_record_amount_bounded"),
        CheckConstraint(f"amount_out <= {MONEY_LIMIT}", name="activity_record_amount_out_bounded"),
        CheckConstraint(f"amount_in <= {MONEY_LIMIT}", name="activity_record_amount_in_bounded"),
        Index("ix_activity_record_user_id_occurred_at", "user_id", "occurred_at"),
    )

    id: UUID = Field(primary_key=True)
    user_id: str = Field(max_length=64)
    kind: str = Field(max_length=32)
    occurred_at: datetime = Field(sa_type=UtcTime)
    event_id: str = Field(max_length=128)
    account_id: str | None = Field(default=None, max_length=64)
    amount: int | None = Field(default=None, sa_type=BigInteger)
    """Minor units: the opening balance of a created account, or the amount by which an income or expense changed the
    account, which is never negative."""
    currency: str | None = Field(default=None, max_length=3)
    from_account_id: str | None = Field(default=None, max_length=64)
    to_account_id: str | None = Field(default=None, max_length=64)
    amount_out: int | None = Field(default=None, sa_type=BigInteger)
    currency_out: str | None = Field(default=None, max_length=3)
    amount_in: int | None = Field(default=None, sa_type=BigInteger)
    currency_in: str | None = Field(default=None, max_length=3)
    rate: Decimal | None = Field(default=None, sa_type=ExactDecimal)
    """The exact rate that was used, so that the amounts can be computed again."""
    category_id: str | None = Field(default=None, max_length=64)
    converted: int | None = Field(default=None, sa_type=BigInteger)
    """The amount added to the category, in the minor unit that it had at that time."""
    converted_currency: str | None = Field(default=None, max_length=3)
    budget_type: str | None = Field(default=None, max_length=7)
    note: str | None = Field(default=None, max_length=500)
    reset_epoch: int | None = None
    """The category's reset epoch when the amount was added."""
    currency_epoch: int | None = None
    """How often the currency of the user's categories had changed; for a currency change, its own number."""
    currency_from: str | None = Field(default=None, max_length=3)
    currency_to: str | None = Field(default=None, max_length=3)
    removing: str | None = Field(default=None, max_length=128)
    """Id of the event whose saga has claimed this record to remove it. While the record's own saga is in flight, it is
    that saga's event, so that no removal can claim the record."""


class CategoryChange(Contract):
    """A record of the kind `category_value_change`, as it was before a removal changed it."""

    record_id: UUID
    """The record's id."""
    occurred_at: datetime
    """The time of its event."""
    event_id: str
    """The id of its event."""
    account_id: AccountId
    """The account whose balance changed."""
    category_id: CategoryId
    """The category whose value changed."""
    budget_type: BudgetType
    """Whether it was an income or an expense."""
    amount: NaturalMoney
    """The amount in the account's currency."""
    converted: NaturalMoney
    """The amount in the currency that the category had at that time."""
    rate: Rate | None
    """The rate that was used."""
    note: str
    """The user's note."""
    reset_epoch: int
    """The category's reset epoch at that time."""
    currency_epoch: int
    """The currency epoch of the user's categories at that time."""
    removing: str | None
    """Id of the event whose saga had claimed the record; None if there was none."""
