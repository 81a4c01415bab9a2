"""The metadata domain: a user's settings and counters, and the exchange rates all users share. Knows no other domain.

A user's row is there while it says something: the first account makes it, and undoing that account takes it away.
"""

from datetime import date
from decimal import Decimal

from sqlalchemy import CheckConstraint, delete
from sqlmodel import Field, SQLModel, col, select, update

from activities.columns import ExactDecimal
from activities.statements import RowGone, insert_into
from events.identity import UserId
from events.money import (
    MONEY_LIMIT,
    Currency,
    Holding,
    Money,
    NaturalMoney,
    PositiveMoney,
    Rate,
    inverse,
    minor_units_between,
)
from events.month import Month
from orchestrator import Refused, Transaction, operation, query
from orchestrator.event import Contract


class UserMetadata(SQLModel, table=True):
    """What is known of one user."""

    __tablename__ = "user_metadata"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("account_count >= 0", name="user_metadata_account_count_not_negative"),
        # So that taking an empty row away brings back exactly what was before `count_account` made it.
        CheckConstraint(
            "account_count > 0 OR display_currency IS NOT NULL OR language IS NOT NULL OR last_reset_month IS NOT NULL",
            name="user_metadata_says_something",
        ),
    )

    user_id: str = Field(primary_key=True, max_length=64)
    display_currency: str | None = Field(default=None, max_length=3)
    """None until the user chooses."""
    language: str | None = Field(default=None, max_length=16)
    """Such as `uk-UA`; None until the user chooses."""
    last_reset_month: str | None = Field(default=None, max_length=7)
    """Such as `2026-01`; None before the first."""
    account_count: int = 0


class ExchangeRate(SQLModel, table=True):
    """How many units of `quote` one unit of `base` is worth, as last heard. Shared by all users."""

    __tablename__ = "exchange_rate"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("base <> quote", name="exchange_rate_of_two_currencies"),)

    base: str = Field(primary_key=True, max_length=3)
    quote: str = Field(primary_key=True, max_length=3)
    rate: Decimal = Field(sa_type=ExactDecimal)
    as_of: date


class Converted(Contract):
    """An amount in another currency, and how it came about."""

    amount: PositiveMoney
    """In the other currency."""
    rate: Rate | None
    """The rate that was used, exactly; None where both currencies are one."""


class Valued(Contract):
    """What an amount is worth in another currency, which may be nothing."""

    amount: NaturalMoney
    """In the other currency."""
    rate: Rate | None
    """The rate that was used, exactly; None where both currencies are one."""


class MonthClaim(Contract):
    """Whether a month was this saga's to reset."""

    is_due: bool
    """False if it, or a later one, was reset before."""
    before: Month | None
    """The month that was reset last; None before the first."""


@query
async def convert(tx: Transaction, user_id: UserId, amount: PositiveMoney, into: Currency) -> Converted:
    """As much in another currency, rounded half-even to its minor unit, at the rate stored now.

    Takes the rate from one to the other; where only the opposite one is stored, its inverse to 18 significant digits.
    In the same currency nothing is converted and no rate is needed.

    Raises:
        Refused: `currency.rate_unknown`; `currency.amount_too_small` or `currency.amount_too_large` if nothing would
            arrive, or more than an account can hold.
    """
    if into == amount.currency:
        return Converted(amount=amount, rate=None)
    rate = await _rate(tx, amount.currency, into)
    counted = amount.minor_units_in(into, rate)
    if counted < 1:
        raise Refused("currency.amount_too_small", f"{amount.shown()} is less than the smallest amount of {into}")
    if counted > MONEY_LIMIT:
        raise Refused("currency.amount_too_large", f"{amount.shown()} is more than can be kept in {into}")
    return Converted(amount=Money(amount_minor=counted, currency=into), rate=rate)


@query
async def value_in(tx: Transaction, user_id: UserId, amount: NaturalMoney, into: Currency) -> Valued:
    """What an amount is worth in another currency, as `convert` counts; too little for its minor unit is nothing.

    Raises:
        Refused: `currency.rate_unknown` or `currency.amount_too_large`.
    """
    if into == amount.currency:
        return Valued(amount=amount, rate=None)
    rate = await _rate(tx, amount.currency, into)
    counted = amount.minor_units_in(into, rate)
    if counted > MONEY_LIMIT:
        raise Refused("currency.amount_too_large", f"{amount.shown()} is more than can be kept in {into}")
    return Valued(amount=Money(amount_minor=counted, currency=into), rate=rate)


@query
async def total_in(tx: Transaction, user_id: UserId, holdings: tuple[Holding, ...], into: Currency) -> int:
    """All of it together in one currency's minor unit; each is rounded by itself.

    Raises:
        Refused: `currency.rate_unknown`.
    """
    rates = {into: Decimal(1)}
    for one in holdings:
        if one.currency not in rates:
            rates[one.currency] = await _rate(tx, one.currency, into)
    return sum(minor_units_between(one.amount_minor, one.currency, into, rates[one.currency]) for one in holdings)


@query
async def display_currency(tx: Transaction, user_id: UserId) -> Currency:
    """The currency a user sees their categories in.

    Raises:
        Refused: `currency.not_chosen`.
    """
    chosen = (await tx.exec(select(UserMetadata.display_currency).where(UserMetadata.user_id == user_id))).first()
    if chosen is None:
        raise _not_chosen(user_id)
    return Currency(chosen)


@query
async def rate_between(tx: Transaction, user_id: UserId, base: Currency, quote: Currency) -> Rate:
    """The rate stored now, or the inverse of the opposite one.

    Raises:
        Refused: `currency.rate_unknown`.
    """
    return await _rate(tx, base, quote)


@operation
async def change_display_currency(tx: Transaction, user_id: UserId, currency: Currency) -> Currency:
    """Show a user's categories in another currency. Returns the one before.

    Raises:
        Refused: `currency.not_chosen` if there is none to change, `currency.unchanged` if it is this one.
    """
    row = (await tx.exec(select(UserMetadata).where(UserMetadata.user_id == user_id).with_for_update())).first()
    if row is None or row.display_currency is None:
        raise _not_chosen(user_id)
    before = Currency(row.display_currency)
    if before == currency:
        raise Refused("currency.unchanged", f"{currency} is the display currency already")
    row.display_currency = currency
    return before


@change_display_currency.compensation
async def change_display_currency_back(tx: Transaction, user_id: UserId, currency: Currency, result: Currency) -> None:
    """Back to the one before, unless it was changed again since."""
    await tx.exec(
        update(UserMetadata)
        .where(col(UserMetadata.user_id) == user_id, col(UserMetadata.display_currency) == currency)
        .values(display_currency=result)
    )


@operation
async def claim_month(tx: Transaction, user_id: UserId, month: Month) -> MonthClaim:
    """Make this month the last one that was reset, if that is an earlier one: only one saga can.

    Raises:
        Refused: `currency.not_chosen`: the user was never set up.
    """
    row = (await tx.exec(select(UserMetadata).where(UserMetadata.user_id == user_id).with_for_update())).first()
    if row is None or row.display_currency is None:
        raise _not_chosen(user_id)
    before = Month(row.last_reset_month) if row.last_reset_month else None
    is_due = before is None or before < month
    if is_due:
        row.last_reset_month = month
    return MonthClaim(is_due=is_due, before=before)


@claim_month.compensation
async def give_month_back(tx: Transaction, user_id: UserId, month: Month, result: MonthClaim) -> None:
    """The month before was the last again, unless a later one was claimed since."""
    if result.is_due:
        await tx.exec(
            update(UserMetadata)
            .where(col(UserMetadata.user_id) == user_id, col(UserMetadata.last_reset_month) == month)
            .values(last_reset_month=result.before)
        )


@operation
async def count_account(tx: Transaction, user_id: UserId) -> None:
    """Add one to the number of the user's accounts; the first makes the user's row."""
    insert = insert_into(tx, UserMetadata).values(user_id=user_id, account_count=1)
    await tx.exec(
        insert.on_conflict_do_update(
            index_elements=["user_id"], set_={"account_count": col(UserMetadata.account_count) + 1}
        )
    )


@count_account.compensation
async def uncount_account(tx: Transaction, user_id: UserId) -> None:
    """Take one off again, and the row with it if it then says nothing any more."""
    # Locked first: between "is this the last?" and the answer another saga may count.
    row = (await tx.exec(select(UserMetadata).where(UserMetadata.user_id == user_id).with_for_update())).first()
    if row is None or row.account_count < 1:
        raise RowGone(f"the account count of {user_id} is not there to be undone")
    settings = (row.display_currency, row.language, row.last_reset_month)
    if row.account_count == 1 and settings == (None, None, None):
        await tx.exec(delete(UserMetadata).where(col(UserMetadata.user_id) == user_id))
    else:
        await tx.exec(
            update(UserMetadata)
            .where(col(UserMetadata.user_id) == user_id)
            .values(account_count=col(UserMetadata.account_count) - 1)
        )


async def _rate(tx: Transaction, base: Currency, quote: Currency) -> Decimal:
    for one, other in ((base, quote), (quote, base)):
        pair = (col(ExchangeRate.base) == one, col(ExchangeRate.quote) == other)
        stored = (await tx.exec(select(col(ExchangeRate.rate)).where(*pair))).first()
        if stored is not None:
            return stored if one == base else inverse(stored)
    raise Refused("currency.rate_unknown", f"no exchange rate from {base} to {quote} is known")


def _not_chosen(user_id: UserId) -> Refused:
    return Refused(
        "currency.not_chosen", f"the user {user_id} has no display currency: `python -m starter users add` sets one"
    )
