"""The category domain: a user's incomes and expenses, summed per category in the display currency.

It knows no other domain. A value only changes by a difference, computed in the database. Two counters make that correct
whatever happens in between. A category's `reset_epoch` counts its resets, so that an amount that was added before a
reset is not subtracted after it. The `currency_epoch` counts changes of currency; `CategoryConversion` stores their
rates, so that an earlier amount can be converted to today's currency. Clocks are never compared.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete
from sqlmodel import col, select, update

from activities.category_model import (
    Category,
    CategoryBeforeReset,
    CategoryConversion,
    CategoryDetails,
    Conversion,
    ConvertedValue,
    Epochs,
    TakenOut,
)
from activities.statements import ChangedMeanwhile, must_have_changed
from events.category import BudgetType
from events.identity import CategoryId, UserId
from events.money import MONEY_LIMIT, Currency, NaturalMoney, Rate, inverse, minor_units_between
from orchestrator import Refused, Transaction, operation, query


@query
async def details(tx: Transaction, user_id: UserId, category_id: CategoryId) -> CategoryDetails:
    """Return a category's type and currency.

    Raises:
        Refused: `category.not_found`.
    """
    row = (await tx.exec(select(Category).where(*_owned(user_id, category_id)))).first()
    if row is None:
        raise _not_found(category_id)
    return _details(row)


@query
async def system_category(tx: Transaction, user_id: UserId, budget_type: BudgetType) -> CategoryDetails:
    """Return the category that receives a user's balance adjustments of one type.

    Raises:
        Refused: `category.not_found`, because the user was never set up.
    """
    row = (
        await tx.exec(
            select(Category).where(
                col(Category.user_id) == user_id, col(Category.budget_type) == budget_type, col(Category.is_system)
            )
        )
    ).first()
    if row is None:
        raise Refused(
            "category.not_found",
            f"the user {user_id} has no system categories; `python -m starter users add` creates them",
        )
    return _details(row)


@operation
async def add(
    tx: Transaction, user_id: UserId, category_id: CategoryId, amount: NaturalMoney, currency_epoch: int
) -> Epochs:
    """Add an amount to a category.

    Args:
        amount: in the currency that the category had in `currency_epoch`.
        currency_epoch: as `details` returned it.

    Returns:
        The epochs that must be stored with the record of this amount.

    Raises:
        Refused: `category.not_found` or `category.value_limit`.
    """
    row = await _locked(tx, user_id, category_id)
    today = await _today(tx, row, amount.amount_minor, currency_epoch)
    if row.value + today > MONEY_LIMIT:
        raise Refused(
            "category.value_limit", f"the category {category_id} would exceed its limit with {amount.shown()} more"
        )
    await _change(tx, category_id, today)
    return Epochs(reset_epoch=row.reset_epoch, currency_epoch=currency_epoch)


@add.compensation
async def take_off(
    tx: Transaction, user_id: UserId, category_id: CategoryId, amount: NaturalMoney, result: Epochs
) -> None:
    """Subtract the amount again, unless the category was reset since."""
    row = await _locked(tx, user_id, category_id)
    if result.reset_epoch >= row.counted_from:
        today = await _today(tx, row, amount.amount_minor, result.currency_epoch)
        await _change(tx, category_id, -today)


@operation
async def take_out(
    tx: Transaction,
    user_id: UserId,
    category_id: CategoryId,
    amount: NaturalMoney,
    reset_epoch: int,
    currency_epoch: int,
) -> TakenOut:
    """Subtract what a record still contributes, converted through every change of currency since.

    Args:
        amount: the amount that the record added, in the currency at that time.
        reset_epoch: the reset epoch stored with the record.
        currency_epoch: the currency epoch stored with the record.

    Raises:
        Refused: `category.not_found`.
    """
    row = await _locked(tx, user_id, category_id)
    was_reset_since = reset_epoch < row.counted_from
    today = 0
    if not was_reset_since:
        today = await _today(tx, row, amount.amount_minor, currency_epoch)
        await _change(tx, category_id, -today)
    return TakenOut(
        amount=today,
        was_reset_since=was_reset_since,
        reset_epoch=reset_epoch,
        currency_epoch=row.currency_epoch,
    )


@take_out.compensation
async def put_in_again(tx: Transaction, user_id: UserId, category_id: CategoryId, result: TakenOut) -> None:
    """Add the amount again, unless the category was reset since."""
    row = await _locked(tx, user_id, category_id)
    if result.amount and result.reset_epoch >= row.counted_from:
        await _change(tx, category_id, await _today(tx, row, result.amount, result.currency_epoch))


@operation
async def reset(tx: Transaction, user_id: UserId, budget_type: BudgetType | None) -> tuple[CategoryBeforeReset, ...]:
    """Set every category of one budget type, or of both, to zero. Returns each as it was before, ordered by id."""
    rows = await _all_locked(tx, user_id, budget_type)
    before = tuple(
        CategoryBeforeReset(
            category_id=CategoryId(row.id),
            name=row.name,
            budget_type=BudgetType(row.budget_type),
            currency=Currency(row.currency),
            value=row.value,
            reset_epoch=row.reset_epoch,
            counted_from=row.counted_from,
            currency_epoch=row.currency_epoch,
            reset_at=row.reset_at,
        )
        for row in rows
    )
    next_epoch = col(Category.reset_epoch) + 1
    await tx.exec(
        update(Category)
        .where(col(Category.id).in_([row.id for row in rows]))
        .values(value=0, reset_epoch=next_epoch, counted_from=next_epoch, reset_at=tx.event_time)
        .execution_options(synchronize_session=False)
    )
    return before


@reset.compensation
async def restore(
    tx: Transaction, user_id: UserId, budget_type: BudgetType | None, result: tuple[CategoryBeforeReset, ...]
) -> None:
    """Add each category's earlier value again. Amounts that other sagas added meanwhile are kept."""
    rows = {row.id: row for row in await _all_locked(tx, user_id, budget_type)}
    for before in result:
        row = rows.get(before.category_id)
        if row is None or row.counted_from != before.reset_epoch + 1:
            continue  # The category was reset again since, so its earlier value no longer counts.
        added_meanwhile = row.value != 0
        value_today = await _today(tx, row, before.value, before.currency_epoch)
        await tx.exec(
            update(Category)
            .where(col(Category.id) == row.id)
            .values(
                value=row.value + value_today,
                counted_from=before.counted_from,
                reset_epoch=row.reset_epoch if added_meanwhile else before.reset_epoch,
                reset_at=before.reset_at,
            )
        )


@operation
async def convert_all(tx: Transaction, user_id: UserId, before: Currency, currency: Currency, rate: Rate) -> Conversion:
    """Convert every category of a user to another currency.

    Raises:
        Refused: `category.value_limit`.
        ChangedMeanwhile: the categories are currently kept in a third currency.
    """
    rows = await _all_locked(tx, user_id, None)
    if any(row.currency != before for row in rows):
        raise ChangedMeanwhile(f"the categories of {user_id} are not kept in {before}")
    values = tuple(
        ConvertedValue(
            category_id=CategoryId(row.id),
            before=row.value,
            after=minor_units_between(row.value, before, currency, rate),
        )
        for row in rows
    )
    if any(abs(value.after) > MONEY_LIMIT for value in values):
        raise Refused("category.value_limit", f"the value of a category is above the limit in {currency}")
    epoch = max((row.currency_epoch for row in rows), default=0) + 1
    await _keep_in(tx, user_id, currency, epoch, {value.category_id: value.after for value in values})
    tx.add(
        CategoryConversion(user_id=user_id, currency_epoch=epoch, currency_from=before, currency_to=currency, rate=rate)
    )
    return Conversion(currency_epoch=epoch, values=values)


@convert_all.compensation
async def convert_back(
    tx: Transaction, user_id: UserId, before: Currency, currency: Currency, rate: Rate, result: Conversion
) -> None:
    """Restore every value.

    Amounts that other sagas added meanwhile are converted at the inverse rate, and their records still count.
    """
    rows = await _all_locked(tx, user_id, None)
    if any(row.currency_epoch != result.currency_epoch for row in rows):
        return  # The currency was changed again since, which converted the values as well.
    conversions = {value.category_id: value for value in result.values}
    values: dict[str, int] = {}
    changed_by_others = False
    for row in rows:
        conversion = conversions.get(CategoryId(row.id))
        after, earlier = (conversion.after, conversion.before) if conversion else (0, 0)
        changed_by_others = changed_by_others or row.value != after or conversion is None
        values[row.id] = earlier + minor_units_between(row.value - after, currency, before, inverse(rate))
    if changed_by_others:
        epoch = result.currency_epoch + 1
        tx.add(
            CategoryConversion(
                user_id=user_id,
                currency_epoch=epoch,
                currency_from=currency,
                currency_to=before,
                rate=inverse(rate),
            )
        )
    else:
        epoch = result.currency_epoch - 1
        deleted = await tx.exec(
            delete(CategoryConversion).where(
                col(CategoryConversion.user_id) == user_id,
                col(CategoryConversion.currency_epoch) == result.currency_epoch,
            )
        )
        must_have_changed(deleted, f"the change of currency {result.currency_epoch} of {user_id}")
    await _keep_in(tx, user_id, before, epoch, values)


async def _keep_in(
    tx: Transaction, user_id: UserId, currency: Currency, epoch: int, values: dict[CategoryId, int] | dict[str, int]
) -> None:
    for category_id, value in values.items():
        await tx.exec(
            update(Category)
            .where(col(Category.id) == category_id, col(Category.user_id) == user_id)
            .values(currency=currency, currency_epoch=epoch, value=value)
        )


async def _today(tx: Transaction, category: Category, amount: int, currency_epoch: int) -> int:
    """Convert an amount of an earlier currency epoch to the category's current minor unit, rounding at each change."""
    if currency_epoch >= category.currency_epoch:
        return amount
    changes = select(CategoryConversion).where(
        col(CategoryConversion.user_id) == category.user_id,
        col(CategoryConversion.currency_epoch) > currency_epoch,
        col(CategoryConversion.currency_epoch) <= category.currency_epoch,
    )
    for change in await tx.exec(changes.order_by(col(CategoryConversion.currency_epoch))):
        amount = minor_units_between(amount, Currency(change.currency_from), Currency(change.currency_to), change.rate)
    return amount


async def _change(tx: Transaction, category_id: CategoryId, difference: int) -> None:
    changed = await tx.exec(
        update(Category).where(col(Category.id) == category_id).values(value=col(Category.value) + difference)
    )
    must_have_changed(changed, f"the category {category_id}")


async def _locked(tx: Transaction, user_id: UserId, category_id: CategoryId) -> Category:
    """Return a category, locked until this transaction ends."""
    row = (await tx.exec(select(Category).where(*_owned(user_id, category_id)).with_for_update())).first()
    if row is None:
        raise _not_found(category_id)
    return row


async def _all_locked(tx: Transaction, user_id: UserId, budget_type: BudgetType | None) -> Sequence[Category]:
    """Lock a user's categories of one type or of both, in the order of their ids, so that no two sagas deadlock."""
    statement = select(Category).where(col(Category.user_id) == user_id).order_by(col(Category.id)).with_for_update()
    if budget_type is not None:
        statement = statement.where(col(Category.budget_type) == budget_type)
    return (await tx.exec(statement)).all()


def _owned(user_id: UserId, category_id: CategoryId) -> Sequence[ColumnElement[bool]]:
    """Match a category only if this user owns it, so that another user's category counts as missing."""
    return (col(Category.id) == category_id, col(Category.user_id) == user_id)


def _details(row: Category) -> CategoryDetails:
    return CategoryDetails(
        category_id=CategoryId(row.id),
        budget_type=BudgetType(row.budget_type),
        currency=Currency(row.currency),
        currency_epoch=row.currency_epoch,
    )


def _not_found(category_id: CategoryId) -> Refused:
    return Refused("category.not_found", f"there is no category {category_id}")
