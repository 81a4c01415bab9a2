"""The metadata domain: users' settings and counters, and the exchange rates for all users. It knows no other domain.

A user has a row only while it contains something: the first account creates it, and undoing that account deletes it.
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
    """One user's settings and counters."""

    __tablename__ = "user_metadata"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (
        CheckConstraint("account_count >= 0", name="user_metadata_account_count_not_negative"),
        # No row is empty, so that deleting an empty one restores exactly the state before `count_account` inserted it.
        CheckConstraint(
            "account_count > 0 OR display_currency IS NOT NULL OR language IS NOT NULL OR last_reset_month IS NOT NULL",
            name="user_metadata_says_something",
        ),
    )

    user_id: str = Field(primary_key=True, max_length=64)
    display_currency: str | None = Field(default=None, max_length=3)
    """None until the user chooses a currency."""
    language: str | None = Field(default=None, max_length=16)
    """A language such as `uk-UA`; None until the user chooses one."""
    last_reset_month: str | None = Field(default=None, max_length=7)
    """A month such as `2026-01`; None before the first reset."""
    account_count: int = 0


class ExchangeRate(SQLModel, table=True):
    """The latest known rate of a pair: how many units of `quote` one unit of `base` is worth. All users share it."""

    __tablename__ = "exchange_rate"  # pyright: ignore[reportAssignmentType]
    __table_args__ = (CheckConstraint("base <> quote", name="exchange_rate_of_two_currencies"),)

    base: str = Field(primary_key=True, max_length=3)
    quote: str = Field(primary_key=True, max_length=3)
    rate: Decimal = Field(sa_type=ExactDecimal)
    as_of: date


class Converted(Contract):
    """An amount in another currency, with the rate that was used."""

    amount: PositiveMoney
    """The amount in the other currency."""
    rate: Rate | None
    """The exact rate that was used; None if both currencies are the same."""


class Valued(Contract):
    """What an amount is worth in another currency, which may be zero."""

    amount: NaturalMoney
    """The amount in the other currency."""
    rate: Rate | None
    """The exact rate that was used; None if both currencies are the same."""


class MonthClaim(Contract):
    """Whether this saga has to reset the month."""

    is_due: bool
    """False if this month or a later one has already been reset."""
    before: Month | None
    """The month that was last reset before; None if there was none."""


@query
async def convert(tx: Transaction, user_id: UserId, amount: PositiveMoney, into: Currency) -> Converted:
    """Convert an amount at the stored rate, rounded half-even to the minor unit of the other currency.

    Uses the rate from one currency to the other. If only the opposite rate is stored, uses its inverse to 18
    significant digits. Within the same currency nothing is converted and no rate is needed.

    Raises:
        Refused: `currency.rate_unknown`; `currency.amount_too_small` if the result would be zero;
            `currency.amount_too_large` if it would be more than an account can hold.
    """
    if into == amount.currency:
        return Converted(amount=amount, rate=None)
    rate = await _rate(tx, amount.currency, into)
    counted = amount.minor_units_in(into, rate)
    if counted < 1:
        raise Refused("currency.amount_too_small", f"{amount.shown()} is less than the smallest amount of {into}")
    if counted > MONEY_LIMIT:
        raise Refused("currency.amount_too_large", f"{amount.shown()} is above the limit in {into}")
    return Converted(amount=Money(amount_minor=counted, currency=into), rate=rate)


@query
async def value_in(tx: Transaction, user_id: UserId, amount: NaturalMoney, into: Currency) -> Valued:
    """Return what an amount is worth in another currency, as `convert` does, but zero if that rounds to nothing.

    Raises:
        Refused: `currency.rate_unknown` or `currency.amount_too_large`.
    """
    if into == amount.currency:
        return Valued(amount=amount, rate=None)
    rate = await _rate(tx, amount.currency, into)
    counted = amount.minor_units_in(into, rate)
    if counted > MONEY_LIMIT:
        raise Refused("currency.amount_too_large", f"{amount.shown()} is above the limit in {into}")
    return Valued(amount=Money(amount_minor=counted, currency=into), rate=rate)


@query
async def total_in(tx: Transaction, user_id: UserId, holdings: tuple[Holding, ...], into: Currency) -> int:
    """Return the sum of all holdings in one currency's minor unit. Each holding is rounded by itself.

    Raises:
        Refused: `currency.rate_unknown`.
    """
    rates = {into: Decimal(1)}
    for holding in holdings:
        if holding.currency not in rates:
            rates[holding.currency] = await _rate(tx, holding.currency, into)
    return sum(
        minor_units_between(holding.amount_minor, holding.currency, into, rates[holding.currency])
        for holding in holdings
    )


@query
async def display_currency(tx: Transaction, user_id: UserId) -> Currency:
    """Return the currency in which a user sees categories.

    Raises:
        Refused: `currency.not_chosen`.
    """
    chosen = (await tx.exec(select(UserMetadata.display_currency).where(UserMetadata.user_id == user_id))).first()
    if chosen is None:
        raise _not_chosen(user_id)
    return Currency(chosen)


@query
async def rate_between(tx: Transaction, user_id: UserId, base: Currency, quote: Currency) -> Rate:
    """Return the stored rate, or the inverse of the opposite rate.

    Raises:
        Refused: `currency.rate_unknown`.
    """
    return await _rate(tx, base, quote)


@operation
async def change_display_currency(tx: Transaction, user_id: UserId, currency: Currency) -> Currency:
    """Change a user's display currency. Returns the previous one.

    Raises:
        Refused: `currency.not_chosen` if the user has none, `currency.unchanged` if it is already this one.
    """
    row = (await tx.exec(select(UserMetadata).where(UserMetadata.user_id == user_id).with_for_update())).first()
    if row is None or row.display_currency is None:
        raise _not_chosen(user_id)
    before = Currency(row.display_currency)
    if before == currency:
        raise Refused("currency.unchanged", f"{currency} is already the display currency")
    row.display_currency = currency
    return before


@change_display_currency.compensation
async def change_display_currency_back(tx: Transaction, user_id: UserId, currency: Currency, result: Currency) -> None:
    """Restore the previous display currency, unless it has been changed again since."""
    await tx.exec(
        update(UserMetadata)
        .where(col(UserMetadata.user_id) == user_id, col(UserMetadata.display_currency) == currency)
        .values(display_currency=result)
    )


@operation
async def claim_month(tx: Transaction, user_id: UserId, month: Month) -> MonthClaim:
    """Record this month as the last one that was reset, if the last one is earlier. Only one saga can do that.

    Raises:
        Refused: `currency.not_chosen`, because the user was never set up.
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
    """Restore the previously reset month, unless a later month has been claimed since."""
    if result.is_due:
        await tx.exec(
            update(UserMetadata)
            .where(col(UserMetadata.user_id) == user_id, col(UserMetadata.last_reset_month) == month)
            .values(last_reset_month=result.before)
        )


@operation
async def count_account(tx: Transaction, user_id: UserId) -> None:
    """Add one to the number of the user's accounts. The first account inserts the user's row."""
    insert = insert_into(tx, UserMetadata).values(user_id=user_id, account_count=1)
    await tx.exec(
        insert.on_conflict_do_update(
            index_elements=["user_id"], set_={"account_count": col(UserMetadata.account_count) + 1}
        )
    )


@count_account.compensation
async def uncount_account(tx: Transaction, user_id: UserId) -> None:
    """Subtract one from the number of accounts, and delete the row if it is empty then."""
    # Lock the row before the check, because another saga may count an account between the check and the delete.
    row = (await tx.exec(select(UserMetadata).where(UserMetadata.user_id == user_id).with_for_update())).first()
    if row is None or row.account_count < 1:
        raise RowGone(f"the account count of {user_id} is missing, so it cannot be undone")
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
    for stored_base, stored_quote in ((base, quote), (quote, base)):
        pair = (col(ExchangeRate.base) == stored_base, col(ExchangeRate.quote) == stored_quote)
        rate = (await tx.exec(select(col(ExchangeRate.rate)).where(*pair))).first()
        if rate is not None:
            return rate if stored_base == base else inverse(rate)
    raise Refused("currency.rate_unknown", f"there is no exchange rate from {base} to {quote}")


def _not_chosen(user_id: UserId) -> Refused:
    return Refused(
        "currency.not_chosen", f"the user {user_id} has no display currency: `python -m starter users add` sets one"
    )
