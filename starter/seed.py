"""The demo's data: exchange rates, and the accounts, users and categories that the example events use.

The numbers are fixed, so that the demo shows the same amounts on every machine. Seeding again changes nothing.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID, uuid5

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.account import AccountState
from activities.activity_log_model import RecordKind
from events.account import AccountCreated
from events.category import BudgetType
from events.identity import AccountId, CategoryId, UserId
from events.money import Currency, Money
from starter.tables import ACCOUNT, ACTIVITY_RECORD, CATEGORY, EXCHANGE_RATE, USER_METADATA, create_tables
from starter.users import add_category, add_user, insert_missing

RATES_AS_OF = date(2026, 1, 1)

EXCHANGE_RATES = {
    ("USD", "EUR"): Decimal("0.92"),
    ("USD", "JPY"): Decimal("151.37"),
    ("USD", "KWD"): Decimal("0.3075"),
    ("USD", "UAH"): Decimal("41.35"),
    ("EUR", "USD"): Decimal("1.087"),
    ("EUR", "JPY"): Decimal("164.53"),
    ("EUR", "KWD"): Decimal("0.3342"),
    ("EUR", "UAH"): Decimal("44.95"),
    ("KWD", "JPY"): Decimal("492.26"),
    ("KWD", "UAH"): Decimal("134.47"),
    ("JPY", "UAH"): Decimal("0.27318"),
}
"""Rates by base and quote. Only dollars and euros have a rate in both directions; otherwise the inverse is used."""

_SEEDED = UUID("c1f8c3a4-2d0d-5c52-9a0b-6a2f1c2f7b11")


def _account(
    user: str, account: str, name: str, currency: str, opening_balance: int, icon: str, colour: str
) -> AccountCreated:
    return AccountCreated(
        user_id=UserId(user),
        account_id=AccountId(account),
        name=name,
        currency=Currency(currency),
        opening_balance=opening_balance,
        icon=icon,
        colour=colour,
    )


DEMO_ACCOUNTS = (
    _account("olena", "olena-usd", "Wallet", "USD", 1_000_000_00, "wallet", "#2f9e44"),
    _account("olena", "olena-eur", "Travel", "EUR", 500_000_00, "plane", "#1971c2"),
    _account("olena", "olena-jpy", "Tokyo", "JPY", 12_000_000, "coins", "#e03131"),
    _account("taras", "taras-jpy", "Savings", "JPY", 30_000_000, "piggy-bank", "#f08c00"),
    _account("taras", "taras-kwd", "Safe", "KWD", 80_000_000, "safe", "#6741d9"),
)
"""The demo's accounts as events. Publish them, or let `seed` write the rows that their sagas would write."""

DEMO_USERS = ((UserId("olena"), Currency("UAH"), "uk-UA"), (UserId("taras"), Currency("JPY"), "en-US"))
"""The demo's users with their display currency and language."""

DEMO_CATEGORIES = (
    (UserId("olena"), CategoryId("olena-salary"), "Salary", BudgetType.INCOME),
    (UserId("olena"), CategoryId("olena-groceries"), "Groceries", BudgetType.EXPENSE),
    (UserId("olena"), CategoryId("olena-coffee"), "Coffee", BudgetType.EXPENSE),
    (UserId("taras"), CategoryId("taras-pension"), "Pension", BudgetType.INCOME),
)
"""The demo's categories, besides the two system categories of each user."""

COFFEE = UUID("5eed0000-0000-5000-8000-000000000001")
"""The record in the example of ACTIVITY_RECORD_REMOVAL_REQUESTED: ¥450 from olena-jpy."""


async def seed(connection: AsyncConnection, *, accounts: bool = True) -> None:
    """Create the application's tables, and insert those of the demo's data that are missing.

    Args:
        connection: a connection in a transaction, which the caller commits.
        accounts: whether to write the demo's accounts, too. Turn it off if sagas are to create them.
    """
    await create_tables(connection)
    for (base, quote), rate in EXCHANGE_RATES.items():
        row = {"base": base, "quote": quote, "rate": rate, "as_of": RATES_AS_OF}
        await insert_missing(connection, EXCHANGE_RATE, row)
    for user, currency, language in DEMO_USERS:
        await add_user(connection, user, currency, language)
    for user, category, name, budget_type in DEMO_CATEGORIES:
        await add_category(connection, user, category, name, budget_type)
    if accounts:
        for account in DEMO_ACCOUNTS:
            await open_account(connection, account)


async def drink_coffee(connection: AsyncConnection) -> None:
    """Write the rows of a CategoryTransaction of ¥450 from olena-jpy, with a fixed record id."""
    paid = Money(amount_minor=450, currency=Currency("JPY"))
    rate = EXCHANGE_RATES["JPY", "UAH"]
    worth = paid.converted(Currency("UAH"), rate)
    row = {
        "id": COFFEE,
        "user_id": "olena",
        "kind": RecordKind.CATEGORY_VALUE_CHANGE,
        "occurred_at": datetime(2026, 1, 2, 8, tzinfo=UTC),
        "event_id": "seed-coffee",
        "account_id": "olena-jpy",
        "category_id": "olena-coffee",
        "budget_type": BudgetType.EXPENSE,
        "amount": paid.amount_minor,
        "currency": paid.currency,
        "converted": worth.amount_minor,
        "converted_currency": worth.currency,
        "rate": rate,
        "note": "",
        "reset_epoch": 0,
        "currency_epoch": 0,
    }
    if await insert_missing(connection, ACTIVITY_RECORD, row):
        balance, value = ACCOUNT.c.balance - paid.amount_minor, CATEGORY.c.value + worth.amount_minor
        await connection.execute(ACCOUNT.update().where(ACCOUNT.c.id == "olena-jpy").values(balance=balance))
        await connection.execute(CATEGORY.update().where(CATEGORY.c.id == "olena-coffee").values(value=value))


async def open_account(connection: AsyncConnection, event: AccountCreated) -> bool:
    """Write the rows that the saga of this event would write. Return False if the account already exists."""
    opened_at = datetime(2026, 1, 1, tzinfo=UTC)
    owned = (await connection.execute(select(ACCOUNT.c.position).where(ACCOUNT.c.user_id == event.user_id))).scalars()
    row = event.model_dump(exclude={"account_id"}) | {
        "id": event.account_id,
        "balance": event.opening_balance,
        "position": max(owned, default=0) + 1,
        "state": AccountState.OPEN,
        "opened_at": opened_at,
    }
    if not await insert_missing(connection, ACCOUNT, row):
        return False
    record = {
        "id": uuid5(_SEEDED, event.account_id),
        "user_id": event.user_id,
        "kind": RecordKind.ACCOUNT_CREATED,
        "occurred_at": opened_at,
        "event_id": f"seed-{event.account_id}",
        "account_id": event.account_id,
        "amount": event.opening_balance,
        "currency": event.currency,
    }
    await insert_missing(connection, ACTIVITY_RECORD, record)
    if not await insert_missing(connection, USER_METADATA, {"user_id": event.user_id, "account_count": 1}):
        counted = USER_METADATA.update().where(USER_METADATA.c.user_id == event.user_id)
        await connection.execute(counted.values(account_count=USER_METADATA.c.account_count + 1))
    return True
