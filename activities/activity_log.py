"""The activity log domain: what happened to a user's money, a record each. Knows no other domain.

Records are only added; what takes one away is the undoing of the saga that added it, or a removal that has claimed it.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, ForeignKeyConstraint, Index, delete
from sqlmodel import Field, SQLModel, col, select, update

from activities.columns import ExactDecimal
from activities.statements import must_have_changed
from events.category import BudgetType
from events.identity import AccountId, CategoryId, UserId
from events.money import MONEY_LIMIT, Currency, Money, NaturalMoney, PositiveMoney, Rate
from orchestrator import Refused, Transaction, operation
from orchestrator.event import Contract
from orchestrator.store.core.columns import UtcTime


class RecordKind(StrEnum):
    """What a record tells of."""

    ACCOUNT_CREATED = "account_created"
    MONEY_TRANSFER = "money_transfer"
    CATEGORY_VALUE_CHANGE = "category_value_change"
    CATEGORIES_RESET = "categories_reset"
    CURRENCY_CHANGE = "currency_change"


class ActivityRecord(SQLModel, table=True):
    """One thing that happened. Which of the columns from `account_id` on are filled depends on the kind."""

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
        # Whose it is, too: a record cannot name another user's account. Neither accounts nor categories are ever
        # deleted once others may name them, so none of these can refuse an undoing.
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
    """Minor units; of an account that was created, its opening balance; of a category's change, what the account
    gained or lost, never less than zero."""
    currency: str | None = Field(default=None, max_length=3)
    from_account_id: str | None = Field(default=None, max_length=64)
    to_account_id: str | None = Field(default=None, max_length=64)
    amount_out: int | None = Field(default=None, sa_type=BigInteger)
    currency_out: str | None = Field(default=None, max_length=3)
    amount_in: int | None = Field(default=None, sa_type=BigInteger)
    currency_in: str | None = Field(default=None, max_length=3)
    rate: Decimal | None = Field(default=None, sa_type=ExactDecimal)
    """The rate that was used, digit for digit: the amounts can be computed again from it."""
    category_id: str | None = Field(default=None, max_length=64)
    converted: int | None = Field(default=None, sa_type=BigInteger)
    """What the category gained, in its minor unit of then."""
    converted_currency: str | None = Field(default=None, max_length=3)
    budget_type: str | None = Field(default=None, max_length=7)
    note: str | None = Field(default=None, max_length=500)
    reset_epoch: int | None = None
    """Of the category, when this was added to it."""
    currency_epoch: int | None = None
    """How often the user's categories had changed their currency; of such a change, its number."""
    currency_from: str | None = Field(default=None, max_length=3)
    currency_to: str | None = Field(default=None, max_length=3)
    removing: str | None = Field(default=None, max_length=128)
    """Id of the event whose saga has claimed this record to remove it; of its own event while that is under way."""


class CategoryChange(Contract):
    """A record of the kind `category_value_change`, as a removal finds it."""

    record_id: UUID
    """Its id."""
    occurred_at: datetime
    """When its event happened."""
    event_id: str
    """That event."""
    account_id: AccountId
    """Whose balance changed."""
    category_id: CategoryId
    """Whose value changed."""
    budget_type: BudgetType
    """Income came into the account, an expense left it."""
    amount: NaturalMoney
    """In the account's currency."""
    converted: NaturalMoney
    """In the category's currency of then."""
    rate: Rate | None
    """The rate that was used."""
    note: str
    """What the user wrote to it."""
    reset_epoch: int
    """Of the category, then."""
    currency_epoch: int
    """Of the user's categories, then."""
    removing: str | None
    """Whose claim was on it."""


@operation
async def record_account_created(
    tx: Transaction, user_id: UserId, account_id: AccountId, opening_balance: Money
) -> UUID:
    """Record that an account was created, and with how much. Returns the record's id."""
    record = ActivityRecord(
        id=tx.uuid(),
        user_id=user_id,
        kind=RecordKind.ACCOUNT_CREATED,
        occurred_at=tx.event_time,
        event_id=tx.event_id,
        account_id=account_id,
        amount=opening_balance.amount_minor,
        currency=opening_balance.currency,
    )
    tx.add(record)
    return record.id


@record_account_created.compensation
async def erase_account_created(tx: Transaction, user_id: UserId, result: UUID) -> None:
    """Take the record away again."""
    await _erase(tx, user_id, result)


@operation
async def record_transfer(
    tx: Transaction,
    user_id: UserId,
    from_account_id: AccountId,
    to_account_id: AccountId,
    left: PositiveMoney,
    arrived: PositiveMoney,
    rate: Rate | None,
) -> UUID:
    """Record that money moved, with the rate that was used, if any. Returns the record's id."""
    record = ActivityRecord(
        id=tx.uuid(),
        user_id=user_id,
        kind=RecordKind.MONEY_TRANSFER,
        occurred_at=tx.event_time,
        event_id=tx.event_id,
        from_account_id=from_account_id,
        to_account_id=to_account_id,
        amount_out=left.amount_minor,
        currency_out=left.currency,
        amount_in=arrived.amount_minor,
        currency_in=arrived.currency,
        rate=rate,
    )
    tx.add(record)
    return record.id


@record_transfer.compensation
async def erase_transfer(tx: Transaction, user_id: UserId, result: UUID) -> None:
    """Take the record away again."""
    await _erase(tx, user_id, result)


@operation
async def record_category_change(
    tx: Transaction,
    user_id: UserId,
    account_id: AccountId,
    category_id: CategoryId,
    budget_type: BudgetType,
    amount: NaturalMoney,
    converted: NaturalMoney,
    rate: Rate | None,
    note: str,
    reset_epoch: int,
    currency_epoch: int,
) -> UUID:
    """Record an income or an expense, with the rate that was used, if any. Returns the record's id.

    Until `open_record` nobody can take it back: its own saga may still be undone, and what it did with it.
    """
    record = ActivityRecord(
        id=tx.uuid(),
        user_id=user_id,
        kind=RecordKind.CATEGORY_VALUE_CHANGE,
        occurred_at=tx.event_time,
        event_id=tx.event_id,
        account_id=account_id,
        category_id=category_id,
        budget_type=budget_type,
        amount=amount.amount_minor,
        currency=amount.currency,
        converted=converted.amount_minor,
        converted_currency=converted.currency,
        rate=rate,
        note=note,
        reset_epoch=reset_epoch,
        currency_epoch=currency_epoch,
        removing=tx.event_id,
    )
    tx.add(record)
    return record.id


@record_category_change.compensation
async def erase_category_change(tx: Transaction, user_id: UserId, result: UUID) -> None:
    """Take the record away again."""
    await _erase(tx, user_id, result)


@operation(irreversible="others may take the record back from here on")
async def open_record(tx: Transaction, user_id: UserId, record_id: UUID) -> None:
    """Let a record be taken back, once its saga is through.

    Raises:
        Refused: `activity_log.not_found`.
    """
    opened = await tx.exec(
        update(ActivityRecord)
        .where(*_owned(user_id, record_id), col(ActivityRecord.removing) == tx.event_id)
        .values(removing=None)
    )
    if opened.rowcount != 1:
        raise _not_found(record_id)


@operation
async def record_reset(tx: Transaction, user_id: UserId, budget_type: BudgetType) -> UUID:
    """Record that the categories of one type were set to zero. Returns the record's id."""
    record = ActivityRecord(
        id=tx.uuid(),
        user_id=user_id,
        kind=RecordKind.CATEGORIES_RESET,
        occurred_at=tx.event_time,
        event_id=tx.event_id,
        budget_type=budget_type,
    )
    tx.add(record)
    return record.id


@record_reset.compensation
async def erase_reset(tx: Transaction, user_id: UserId, result: UUID) -> None:
    """Take the record away again."""
    await _erase(tx, user_id, result)


@operation
async def record_currency_change(
    tx: Transaction, user_id: UserId, before: Currency, currency: Currency, rate: Rate, currency_epoch: int
) -> UUID:
    """Record that the display currency was changed, with the rate. Returns the record's id."""
    record = ActivityRecord(
        id=tx.uuid(),
        user_id=user_id,
        kind=RecordKind.CURRENCY_CHANGE,
        occurred_at=tx.event_time,
        event_id=tx.event_id,
        currency_from=before,
        currency_to=currency,
        rate=rate,
        currency_epoch=currency_epoch,
    )
    tx.add(record)
    return record.id


@record_currency_change.compensation
async def erase_currency_change(tx: Transaction, user_id: UserId, result: UUID) -> None:
    """Take the record away again."""
    await _erase(tx, user_id, result)


@operation
async def claim_removal(tx: Transaction, user_id: UserId, record_id: UUID) -> CategoryChange:
    """Claim a record, so that nobody else takes it back. Returns it as it is.

    Raises:
        Refused: `activity_log.not_found`, also while its own saga is under way; `activity_log.not_removable` if it is
            of another kind; `activity_log.being_removed` if somebody else has claimed it.
    """
    claimed = await tx.exec(
        update(ActivityRecord)
        .where(
            *_owned(user_id, record_id),
            col(ActivityRecord.kind) == RecordKind.CATEGORY_VALUE_CHANGE,
            col(ActivityRecord.removing).is_(None),
        )
        .values(removing=tx.event_id)
    )
    found = (await tx.exec(select(ActivityRecord).where(*_owned(user_id, record_id)))).first()
    if found is None or (claimed.rowcount != 1 and found.removing == found.event_id):
        raise _not_found(record_id)
    if found.kind != RecordKind.CATEGORY_VALUE_CHANGE:
        raise Refused("activity_log.not_removable", f"the record {record_id} is of the kind {found.kind}")
    if claimed.rowcount != 1:
        raise Refused("activity_log.being_removed", f"the record {record_id} is being removed by {found.removing}")
    return _category_change(found)


@claim_removal.compensation
async def release_removal(tx: Transaction, user_id: UserId, record_id: UUID, result: CategoryChange) -> None:
    """Give the claim back."""
    released = await tx.exec(
        update(ActivityRecord)
        .where(*_owned(user_id, record_id), col(ActivityRecord.removing) == result.removing)
        .values(removing=None)
    )
    must_have_changed(released, f"the claim on the record {record_id}")


@operation
async def remove_record(tx: Transaction, user_id: UserId, record_id: UUID) -> CategoryChange:
    """Remove a record that this saga has claimed. Returns the row that was deleted.

    Raises:
        Refused: `activity_log.not_found`.
    """
    removed = await tx.exec(
        delete(ActivityRecord)
        .where(*_owned(user_id, record_id), col(ActivityRecord.removing) == tx.event_id)
        .returning(ActivityRecord)
    )
    row = removed.scalars().one_or_none()
    if row is None:
        raise Refused("activity_log.not_found", f"there is no record {record_id} that was claimed")
    return _category_change(row)


@remove_record.compensation
async def put_record_back(tx: Transaction, user_id: UserId, result: CategoryChange) -> None:
    """Insert the deleted row again, unchanged."""
    tx.add(
        ActivityRecord(
            id=result.record_id,
            user_id=user_id,
            kind=RecordKind.CATEGORY_VALUE_CHANGE,
            occurred_at=result.occurred_at,
            event_id=result.event_id,
            account_id=result.account_id,
            category_id=result.category_id,
            budget_type=result.budget_type,
            amount=result.amount.amount_minor,
            currency=result.amount.currency,
            converted=result.converted.amount_minor,
            converted_currency=result.converted.currency,
            rate=result.rate,
            note=result.note,
            reset_epoch=result.reset_epoch,
            currency_epoch=result.currency_epoch,
            removing=result.removing,
        )
    )


def _category_change(row: ActivityRecord) -> CategoryChange:
    # Of this kind none of them is None: the table says so.
    return CategoryChange(
        record_id=row.id,
        occurred_at=row.occurred_at,
        event_id=row.event_id,
        account_id=AccountId(str(row.account_id)),
        category_id=CategoryId(str(row.category_id)),
        budget_type=BudgetType(str(row.budget_type)),
        amount=Money(amount_minor=row.amount or 0, currency=Currency(str(row.currency))),
        converted=Money(amount_minor=row.converted or 0, currency=Currency(str(row.converted_currency))),
        rate=row.rate,
        note=row.note or "",
        reset_epoch=row.reset_epoch or 0,
        currency_epoch=row.currency_epoch or 0,
        removing=row.removing,
    )


def _owned(user_id: UserId, record_id: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """A record of this user: another's row answers like a missing one, because it never matches."""
    return (col(ActivityRecord.id) == record_id, col(ActivityRecord.user_id) == user_id)


def _not_found(record_id: UUID) -> Refused:
    return Refused("activity_log.not_found", f"there is no record {record_id}")


async def _erase(tx: Transaction, user_id: UserId, record: UUID) -> None:
    erased = await tx.exec(delete(ActivityRecord).where(*_owned(user_id, record)))
    must_have_changed(erased, f"the record {record}")
