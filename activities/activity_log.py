"""The activity log domain: one record per change of a user's money. It knows no other domain.

Records are only added. A record is deleted only when the saga that added it is undone, or by a removal that has claimed
it.
"""

from uuid import UUID

from sqlalchemy import ColumnElement, delete
from sqlmodel import col, select, update

from activities.activity_log_model import ActivityRecord, CategoryChange, RecordKind
from activities.statements import must_have_changed
from events.category import BudgetType
from events.identity import AccountId, CategoryId, UserId
from events.money import Currency, Money, NaturalMoney, PositiveMoney, Rate
from orchestrator import Refused, Transaction, operation


@operation
async def record_account_created(
    tx: Transaction, user_id: UserId, account_id: AccountId, opening_balance: Money
) -> UUID:
    """Record that an account was created, with its opening balance. Returns the record's id."""
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
    """Delete the record again."""
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
    """Record a transfer, with the exchange rate if one was used. Returns the record's id."""
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
    """Delete the record again."""
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
    """Record an income or an expense, with the exchange rate if one was used. Returns the record's id.

    No removal can claim the record before `open_record`, because its own saga may still be undone.
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
    """Delete the record again."""
    await _erase(tx, user_id, result)


@operation(irreversible="others may remove the record from now on")
async def open_record(tx: Transaction, user_id: UserId, record_id: UUID) -> None:
    """Allow a record to be removed, because its saga can no longer be undone.

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
    """Delete the record again."""
    await _erase(tx, user_id, result)


@operation
async def record_currency_change(
    tx: Transaction, user_id: UserId, before: Currency, currency: Currency, rate: Rate, currency_epoch: int
) -> UUID:
    """Record a change of the display currency, with its rate. Returns the record's id."""
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
    """Delete the record again."""
    await _erase(tx, user_id, result)


@operation
async def claim_removal(tx: Transaction, user_id: UserId, record_id: UUID) -> CategoryChange:
    """Claim a record, so that no other saga removes it. Returns the record.

    Raises:
        Refused: `activity_log.not_found`, also while the record's own saga is in flight; `activity_log.not_removable`
            if the record has another kind; `activity_log.being_removed` if another saga has claimed it.
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
    row = (await tx.exec(select(ActivityRecord).where(*_owned(user_id, record_id)))).first()
    if row is None or (claimed.rowcount != 1 and row.removing == row.event_id):
        raise _not_found(record_id)
    if row.kind != RecordKind.CATEGORY_VALUE_CHANGE:
        raise Refused("activity_log.not_removable", f"the record {record_id} is of the kind {row.kind}")
    if claimed.rowcount != 1:
        raise Refused("activity_log.being_removed", f"the record {record_id} is being removed by {row.removing}")
    return _category_change(row)


@claim_removal.compensation
async def release_removal(tx: Transaction, user_id: UserId, record_id: UUID, result: CategoryChange) -> None:
    """Release the claim."""
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
        raise Refused("activity_log.not_found", f"there is no record {record_id} that this saga has claimed")
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
    # None of these columns is NULL for this kind, because the table has a check constraint for it.
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
    """Match a record only if this user owns it, so that another user's record counts as missing."""
    return (col(ActivityRecord.id) == record_id, col(ActivityRecord.user_id) == user_id)


def _not_found(record_id: UUID) -> Refused:
    return Refused("activity_log.not_found", f"there is no record {record_id}")


async def _erase(tx: Transaction, user_id: UserId, record: UUID) -> None:
    erased = await tx.exec(delete(ActivityRecord).where(*_owned(user_id, record)))
    must_have_changed(erased, f"the record {record}")
