"""The category domain: what a user's money came from and went to, in the display currency. Knows no other domain.

A value only changes by a difference, in the database. Two counters make that right whatever happens in between: a
category's `reset_epoch` counts its resets, so that what was added before one is not taken off after it; the
`currency_epoch` counts changes of currency, whose rates stand in `CategoryConversion`, so that an amount of earlier is
known in today's currency. Clocks are never compared.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, Index, delete, text
from sqlmodel import Field, SQLModel, col, select, update

from activities.columns import ExactDecimal
from activities.statements import ChangedMeanwhile, must_have_changed
from events.category import BudgetType
from events.identity import CategoryId, UserId
from events.money import MONEY_LIMIT, Currency, NaturalMoney, Rate, inverse, minor_units_between
from orchestrator import Refused, Transaction, operation, query
from orchestrator.event import Contract
from orchestrator.store.core.columns import UtcTime

VALUE_CEILING = MONEY_LIMIT * 1_000
"""What the column holds at most, either way. An operation refuses at `MONEY_LIMIT`, an undoing never does."""

_IS_SYSTEM = text("is_system")


class Category(SQLModel, table=True):
    """One category of one user."""

    __table_args__ = (
        CheckConstraint("budget_type IN ('income', 'expense')", name="category_budget_type_known"),
        CheckConstraint(f"value BETWEEN -{VALUE_CEILING} AND {VALUE_CEILING}", name="category_value_bounded"),
        CheckConstraint("0 <= counted_from AND counted_from <= reset_epoch", name="category_reset_epoch_in_order"),
        CheckConstraint("currency_epoch >= 0", name="category_currency_epoch_not_negative"),
        Index("uq_category_user_id_id", "user_id", "id", unique=True),
        # Two of them for every user, one of each type: balance adjustments go there.
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
    """What it has gathered since its last reset, in the currency's minor unit."""
    reset_epoch: int = 0
    """How often it was reset; a record keeps the one it was added in."""
    counted_from: int = 0
    """The first epoch whose records make up the value. Less than `reset_epoch` only where a reset was undone after
    others had added."""
    currency_epoch: int = 0
    """How often its user's categories changed their currency."""
    icon: str = Field(max_length=64)
    colour: str = Field(max_length=7)
    is_system: bool = False
    """For balance adjustments."""
    reset_at: datetime | None = Field(default=None, sa_type=UtcTime)
    """For people to read; None before the first."""


class CategoryConversion(SQLModel, table=True):
    """One change of the currency that a user's categories are kept in."""

    __tablename__ = "category_conversion"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("currency_epoch > 0", name="category_conversion_epoch_positive"),)

    user_id: str = Field(primary_key=True, max_length=64)
    currency_epoch: int = Field(primary_key=True)
    """The first one's is 1."""
    currency_from: str = Field(max_length=3)
    currency_to: str = Field(max_length=3)
    rate: Decimal = Field(sa_type=ExactDecimal)


class CategoryDetails(Contract):
    """What others need to know of a category."""

    category_id: CategoryId
    """Its id."""
    budget_type: BudgetType
    """Which way its money goes."""
    currency: Currency
    """What it is kept in."""
    currency_epoch: int
    """When that was read: `add` knows by it whether the currency is another by then."""


class Epochs(Contract):
    """When something was added to a category, as the category counts."""

    reset_epoch: int
    """How often it had been reset."""
    currency_epoch: int
    """How often its currency had changed when the amount was converted."""


class TakenOut(Contract):
    """What a removal found of a record in its category."""

    amount: int
    """In today's minor unit; 0 if the category was reset since."""
    was_reset_since: bool
    """Whether it was."""
    reset_epoch: int
    """Of the record."""
    currency_epoch: int
    """Of the amount."""


class Standing(Contract):
    """A category as it stood when it was reset."""

    category_id: CategoryId
    """Its id."""
    name: str
    """Its name."""
    budget_type: BudgetType
    """Which way its money goes."""
    currency: Currency
    """What it is kept in."""
    value: int
    """What it had gathered, in the minor unit."""
    reset_epoch: int
    """Before the reset."""
    counted_from: int
    """Before the reset."""
    currency_epoch: int
    """Of the value."""
    reset_at: datetime | None
    """Of the reset before."""


class ConvertedValue(Contract):
    """A category's value on both sides of a change of currency."""

    category_id: CategoryId
    """Its id."""
    before: int
    """In the old minor unit."""
    after: int
    """In the new one."""


class Conversion(Contract):
    """What a change of currency did."""

    currency_epoch: int
    """Its number."""
    values: tuple[ConvertedValue, ...]
    """Of every category."""


@query
async def details(tx: Transaction, user_id: UserId, category_id: CategoryId) -> CategoryDetails:
    """A category's type and currency.

    Raises:
        Refused: `category.not_found`.
    """
    found = (await tx.exec(select(Category).where(*_owned(user_id, category_id)))).first()
    if found is None:
        raise _not_found(category_id)
    return _details(found)


@query
async def system_category(tx: Transaction, user_id: UserId, budget_type: BudgetType) -> CategoryDetails:
    """The category for a user's balance adjustments of one type.

    Raises:
        Refused: `category.not_found`: the user was never set up.
    """
    found = (
        await tx.exec(
            select(Category).where(
                col(Category.user_id) == user_id, col(Category.budget_type) == budget_type, col(Category.is_system)
            )
        )
    ).first()
    if found is None:
        raise Refused(
            "category.not_found", f"the user {user_id} has no system categories: `python -m starter users add` does it"
        )
    return _details(found)


@operation
async def add(
    tx: Transaction, user_id: UserId, category_id: CategoryId, amount: NaturalMoney, currency_epoch: int
) -> Epochs:
    """Add an amount to a category.

    Args:
        amount: in the category's currency as it was in `currency_epoch`.
        currency_epoch: as `details` told it.

    Returns:
        The epochs that the record of it must keep.

    Raises:
        Refused: `category.not_found` or `category.value_limit`.
    """
    found = await _locked(tx, user_id, category_id)
    today = await _today(tx, found, amount.amount_minor, currency_epoch)
    if found.value + today > MONEY_LIMIT:
        raise Refused("category.value_limit", f"the category {category_id} cannot gather {amount.shown()} more")
    await _change(tx, category_id, today)
    return Epochs(reset_epoch=found.reset_epoch, currency_epoch=currency_epoch)


@add.compensation
async def take_off(
    tx: Transaction, user_id: UserId, category_id: CategoryId, amount: NaturalMoney, result: Epochs
) -> None:
    """Take it off again, unless the category was reset since."""
    found = await _locked(tx, user_id, category_id)
    if result.reset_epoch >= found.counted_from:
        today = await _today(tx, found, amount.amount_minor, result.currency_epoch)
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
    """Take out what a record contributes today, through the rates of the changes of currency since.

    Args:
        amount: what it added, in the currency of then.
        reset_epoch: the record's.
        currency_epoch: the record's.

    Raises:
        Refused: `category.not_found`.
    """
    found = await _locked(tx, user_id, category_id)
    was_reset_since = reset_epoch < found.counted_from
    today = 0
    if not was_reset_since:
        today = await _today(tx, found, amount.amount_minor, currency_epoch)
        await _change(tx, category_id, -today)
    return TakenOut(
        amount=today,
        was_reset_since=was_reset_since,
        reset_epoch=reset_epoch,
        currency_epoch=found.currency_epoch,
    )


@take_out.compensation
async def put_in_again(tx: Transaction, user_id: UserId, category_id: CategoryId, result: TakenOut) -> None:
    """Put in again what was taken out, unless the category was reset since."""
    found = await _locked(tx, user_id, category_id)
    if result.amount and result.reset_epoch >= found.counted_from:
        await _change(tx, category_id, await _today(tx, found, result.amount, result.currency_epoch))


@operation
async def reset(tx: Transaction, user_id: UserId, budget_type: BudgetType | None) -> tuple[Standing, ...]:
    """Set every category of one budget type, or of both, to zero. Returns what each had, by id."""
    rows = await _all_locked(tx, user_id, budget_type)
    had = tuple(
        Standing(
            category_id=CategoryId(one.id),
            name=one.name,
            budget_type=BudgetType(one.budget_type),
            currency=Currency(one.currency),
            value=one.value,
            reset_epoch=one.reset_epoch,
            counted_from=one.counted_from,
            currency_epoch=one.currency_epoch,
            reset_at=one.reset_at,
        )
        for one in rows
    )
    next_epoch = col(Category.reset_epoch) + 1
    await tx.exec(
        update(Category)
        .where(col(Category.id).in_([one.category_id for one in had]))
        .values(value=0, reset_epoch=next_epoch, counted_from=next_epoch, reset_at=tx.event_time)
        .execution_options(synchronize_session=False)
    )
    return had


@reset.compensation
async def restore(
    tx: Transaction, user_id: UserId, budget_type: BudgetType | None, result: tuple[Standing, ...]
) -> None:
    """Add back what each category had. What others added meanwhile stays, and counts with it."""
    now = {one.id: one for one in await _all_locked(tx, user_id, budget_type)}
    for had in result:
        found = now.get(had.category_id)
        if found is None or found.counted_from != had.reset_epoch + 1:
            continue  # reset again since: that one has begun anew from what there was
        added_meanwhile = found.value != 0
        had_today = await _today(tx, found, had.value, had.currency_epoch)
        await tx.exec(
            update(Category)
            .where(col(Category.id) == found.id)
            .values(
                value=found.value + had_today,
                counted_from=had.counted_from,
                reset_epoch=found.reset_epoch if added_meanwhile else had.reset_epoch,
                reset_at=had.reset_at,
            )
        )


@operation
async def convert_all(tx: Transaction, user_id: UserId, before: Currency, currency: Currency, rate: Rate) -> Conversion:
    """Keep every category of a user in another currency from now on.

    Raises:
        Refused: `category.value_limit`.
        ChangedMeanwhile: the categories are kept in a third currency just now.
    """
    rows = await _all_locked(tx, user_id, None)
    if any(one.currency != before for one in rows):
        raise ChangedMeanwhile(f"the categories of {user_id} are not kept in {before}")
    values = tuple(
        ConvertedValue(
            category_id=CategoryId(one.id),
            before=one.value,
            after=minor_units_between(one.value, before, currency, rate),
        )
        for one in rows
    )
    if any(abs(one.after) > MONEY_LIMIT for one in values):
        raise Refused("category.value_limit", f"a category has gathered more than can be kept in {currency}")
    epoch = max((one.currency_epoch for one in rows), default=0) + 1
    await _keep_in(tx, user_id, currency, epoch, {one.category_id: one.after for one in values})
    tx.add(
        CategoryConversion(user_id=user_id, currency_epoch=epoch, currency_from=before, currency_to=currency, rate=rate)
    )
    return Conversion(currency_epoch=epoch, values=values)


@convert_all.compensation
async def convert_back(
    tx: Transaction, user_id: UserId, before: Currency, currency: Currency, rate: Rate, result: Conversion
) -> None:
    """Restore every value. What others added meanwhile goes back at the inverse rate, and their records still count."""
    rows = await _all_locked(tx, user_id, None)
    if any(one.currency_epoch != result.currency_epoch for one in rows):
        return  # changed again since: what is there is worth the same
    was = {one.category_id: one for one in result.values}
    values: dict[str, int] = {}
    others = False
    for one in rows:
        known = was.get(CategoryId(one.id))
        left, had = (known.after, known.before) if known else (0, 0)
        others = others or one.value != left or known is None
        values[one.id] = had + minor_units_between(one.value - left, currency, before, inverse(rate))
    if others:
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
    """An amount of an earlier currency epoch in the category's minor unit of today, rounded at each change."""
    if currency_epoch >= category.currency_epoch:
        return amount
    changes = select(CategoryConversion).where(
        col(CategoryConversion.user_id) == category.user_id,
        col(CategoryConversion.currency_epoch) > currency_epoch,
        col(CategoryConversion.currency_epoch) <= category.currency_epoch,
    )
    for one in await tx.exec(changes.order_by(col(CategoryConversion.currency_epoch))):
        amount = minor_units_between(amount, Currency(one.currency_from), Currency(one.currency_to), one.rate)
    return amount


async def _change(tx: Transaction, category_id: CategoryId, difference: int) -> None:
    changed = await tx.exec(
        update(Category).where(col(Category.id) == category_id).values(value=col(Category.value) + difference)
    )
    must_have_changed(changed, f"the category {category_id}")


async def _locked(tx: Transaction, user_id: UserId, category_id: CategoryId) -> Category:
    """A category that nobody else changes until this transaction ends."""
    found = (await tx.exec(select(Category).where(*_owned(user_id, category_id)).with_for_update())).first()
    if found is None:
        raise _not_found(category_id)
    return found


async def _all_locked(tx: Transaction, user_id: UserId, budget_type: BudgetType | None) -> Sequence[Category]:
    """A user's categories of one type or of both, by id, so that two who want them all do not block each other."""
    wanted = select(Category).where(col(Category.user_id) == user_id).order_by(col(Category.id)).with_for_update()
    if budget_type is not None:
        wanted = wanted.where(col(Category.budget_type) == budget_type)
    return (await tx.exec(wanted)).all()


def _owned(user_id: UserId, category_id: CategoryId) -> Sequence[ColumnElement[bool]]:
    """A category of this user: another's row answers like a missing one, because it never matches."""
    return (col(Category.id) == category_id, col(Category.user_id) == user_id)


def _details(found: Category) -> CategoryDetails:
    return CategoryDetails(
        category_id=CategoryId(found.id),
        budget_type=BudgetType(found.budget_type),
        currency=Currency(found.currency),
        currency_epoch=found.currency_epoch,
    )


def _not_found(category_id: CategoryId) -> Refused:
    return Refused("category.not_found", f"there is no category {category_id}")
