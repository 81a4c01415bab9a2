"""The activity log domain: what happened to a user's money, a record each. Knows no other domain.

Records are only added; what takes one away is the undoing of the saga that added it.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, delete
from sqlmodel import Field, SQLModel, col

from activities.columns import ExactDecimal
from activities.statements import must_have_changed
from events.identity import AccountId, UserId
from events.money import MONEY_LIMIT, Money, PositiveMoney, Rate
from orchestrator import Transaction, operation
from orchestrator.columns import UtcTime


class RecordKind(StrEnum):
    """What a record tells of."""

    ACCOUNT_CREATED = "account_created"
    MONEY_TRANSFER = "money_transfer"


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
    """Minor units; of an account that was created, its opening balance."""
    currency: str | None = Field(default=None, max_length=3)
    from_account_id: str | None = Field(default=None, max_length=64)
    to_account_id: str | None = Field(default=None, max_length=64)
    amount_out: int | None = Field(default=None, sa_type=BigInteger)
    currency_out: str | None = Field(default=None, max_length=3)
    amount_in: int | None = Field(default=None, sa_type=BigInteger)
    currency_in: str | None = Field(default=None, max_length=3)
    rate: Decimal | None = Field(default=None, sa_type=ExactDecimal)
    """The rate that was used, digit for digit: the amounts can be computed again from it."""


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


async def _erase(tx: Transaction, user_id: UserId, record: UUID) -> None:
    erased = await tx.exec(
        delete(ActivityRecord).where(col(ActivityRecord.id) == record, col(ActivityRecord.user_id) == user_id)
    )
    must_have_changed(erased, f"the record {record}")
