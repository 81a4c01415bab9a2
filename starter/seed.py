"""The demo's data: exchange rates, and the accounts that every example event counts on.

Fixed numbers, so that a demo gives the same amounts on every machine. Seeding again changes nothing.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.account import AccountState
from activities.activity_log import RecordKind
from events.account import AccountCreated
from events.identity import AccountId, UserId
from events.money import Currency
from starter.tables import ACCOUNT, ACTIVITY_RECORD, EXCHANGE_RATE, USER_METADATA, create_tables

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
"""By base and quote. The way back is stored for dollars and euros only; elsewhere the inverse is taken."""

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
"""The demo's accounts as events: publish them, or have `seed` write what their sagas would leave."""


async def seed(connection: AsyncConnection, *, accounts: bool = True) -> None:
    """Create the application's tables and write the demo's data where it is missing.

    Args:
        connection: in a transaction that its owner commits.
        accounts: write the demo's accounts too, open, recorded and counted. Turn it off to have sagas create them.
    """
    await create_tables(connection)
    for (base, quote), rate in EXCHANGE_RATES.items():
        row = {"base": base, "quote": quote, "rate": rate, "as_of": RATES_AS_OF}
        await _insert_missing(connection, EXCHANGE_RATE, row)
    if accounts:
        for account in DEMO_ACCOUNTS:
            await open_account(connection, account)


async def open_account(connection: AsyncConnection, event: AccountCreated) -> bool:
    """Write the rows that the saga of this event would leave, without running it; False if the account was there."""
    opened_at = datetime(2026, 1, 1, tzinfo=UTC)
    owned = (await connection.execute(select(ACCOUNT.c.position).where(ACCOUNT.c.user_id == event.user_id))).scalars()
    row = event.model_dump(exclude={"account_id"}) | {
        "id": event.account_id,
        "balance": event.opening_balance,
        "position": max(owned, default=0) + 1,
        "state": AccountState.OPEN,
        "opened_at": opened_at,
    }
    if not await _insert_missing(connection, ACCOUNT, row):
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
    await _insert_missing(connection, ACTIVITY_RECORD, record)
    if not await _insert_missing(connection, USER_METADATA, {"user_id": event.user_id, "account_count": 1}):
        counted = USER_METADATA.update().where(USER_METADATA.c.user_id == event.user_id)
        await connection.execute(counted.values(account_count=USER_METADATA.c.account_count + 1))
    return True


async def _insert_missing(connection: AsyncConnection, table: Table, row: dict[str, Any]) -> bool:
    key = [column == row[column.name] for column in table.primary_key.columns]
    if (await connection.execute(select(*table.primary_key.columns).where(*key))).first() is not None:
        return False
    await connection.execute(table.insert().values(row))
    return True
