"""Sets users up: their settings, the two system categories of each user, and their own categories.

Users are set up by these functions and not by an event. Repeating a call changes nothing.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from events.category import BudgetType
from events.identity import CategoryId, UserId
from events.money import Currency
from starter.tables import CATEGORY, USER_METADATA

_SYSTEM_NAMES = {BudgetType.INCOME: "Balance found", BudgetType.EXPENSE: "Balance lost"}


async def add_user(connection: AsyncConnection, user: UserId, currency: Currency, language: str) -> bool:
    """Insert a user's settings and system categories if they are missing. Later choices of the user are kept.

    Args:
        connection: a connection in a transaction, which the caller commits.
        user: the user's id.
        currency: the display currency.
        language: a language such as `uk-UA`.

    Returns:
        False if the user had already been set up.
    """
    known = USER_METADATA.c.user_id == user
    chosen = (await connection.execute(select(USER_METADATA.c.display_currency).where(known))).first()
    settings = {"display_currency": currency, "language": language}
    if chosen is None:
        await connection.execute(USER_METADATA.insert().values(user_id=user, account_count=0, **settings))
    elif chosen[0] is None:
        await connection.execute(USER_METADATA.update().where(known).values(**settings))
    kept_in = Currency(chosen[0]) if chosen and chosen[0] else currency
    for budget_type, name in _SYSTEM_NAMES.items():
        await insert_missing(
            connection,
            CATEGORY,
            _category(system_category_id(user, budget_type), user, name, budget_type, kept_in) | {"is_system": True},
        )
    return chosen is None or chosen[0] is None


async def add_category(
    connection: AsyncConnection,
    user: UserId,
    category: CategoryId,
    name: str,
    budget_type: BudgetType,
    *,
    icon: str = "tag",
    colour: str = "#868e96",
) -> bool:
    """Insert a category of a user who was set up. Return False if its id is already used.

    Raises:
        LookupError: the user was never set up.
    """
    chosen = select(USER_METADATA.c.display_currency).where(USER_METADATA.c.user_id == user)
    currency = await connection.scalar(chosen)
    if currency is None:
        raise LookupError(f"there is no user {user}; set the user up first, with `users add`")
    epoch = select(func.coalesce(func.max(CATEGORY.c.currency_epoch), 0)).where(CATEGORY.c.user_id == user)
    row = _category(category, user, name, budget_type, Currency(currency))
    row |= {"icon": icon, "colour": colour, "currency_epoch": await connection.scalar(epoch)}
    return await insert_missing(connection, CATEGORY, row)


def system_category_id(user: UserId, budget_type: BudgetType) -> CategoryId:
    """Return the id of a user's category for balance adjustments of one type."""
    return CategoryId(f"{user[:50]}-adjust-{budget_type}")


async def insert_missing(connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row, or return False if its key already exists."""
    key = [column == row[column.name] for column in table.primary_key.columns]
    if (await connection.execute(select(*table.primary_key.columns).where(*key))).first() is not None:
        return False
    await connection.execute(table.insert().values(**row))
    return True


def _category(
    category: CategoryId, user: UserId, name: str, budget_type: BudgetType, currency: Currency
) -> dict[str, Any]:
    return {
        "id": category,
        "user_id": user,
        "name": name,
        "budget_type": budget_type,
        "currency": currency,
        "value": 0,
        "reset_epoch": 0,
        "counted_from": 0,
        "currency_epoch": 0,
        "icon": "scale",
        "colour": "#868e96",
        "is_system": False,
    }
