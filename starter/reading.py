"""What a user has, read from the tables: for the commands, as rows and as JSON. Amounts are integers of minor units."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.account import AccountState
from events.identity import UserId
from events.month import Month
from starter.tables import ACCOUNT, ACTIVITY_RECORD, CATEGORY, MONTH_CATEGORY, MONTH_SNAPSHOT, USER_METADATA

Row = Mapping[str, Any]


async def accounts_of(connection: AsyncConnection, user: UserId) -> list[Row]:
    """Open accounts, in the user's order. One may be over its limit where a deposit was undone that had been spent."""
    columns = ("id", "name", "currency", "balance", "overdraft_limit", "icon", "colour", "position")
    found = await _rows(
        connection,
        select(*(ACCOUNT.c[name] for name in columns))
        .where(ACCOUNT.c.user_id == user, ACCOUNT.c.state == AccountState.OPEN)
        .order_by(ACCOUNT.c.position, ACCOUNT.c.id),
    )
    return [{**one, "is_over_limit": one["balance"] < -one["overdraft_limit"]} for one in found]


async def categories_of(connection: AsyncConnection, user: UserId) -> list[Row]:
    """Categories, incomes last, the system's after the user's own."""
    columns = ("id", "name", "budget_type", "currency", "value", "icon", "colour", "is_system", "reset_at")
    return await _rows(
        connection,
        select(*(CATEGORY.c[name] for name in columns))
        .where(CATEGORY.c.user_id == user)
        .order_by(CATEGORY.c.budget_type, CATEGORY.c.is_system, CATEGORY.c.name, CATEGORY.c.id),
    )


async def activity_of(connection: AsyncConnection, user: UserId, limit: int) -> list[Row]:
    """Records, the latest first; what a record's kind does not fill is left out."""
    found = await _rows(
        connection,
        select(ACTIVITY_RECORD)
        .where(ACTIVITY_RECORD.c.user_id == user)
        .order_by(ACTIVITY_RECORD.c.occurred_at.desc(), ACTIVITY_RECORD.c.id)
        .limit(limit),
    )
    return [{name: value for name, value in row.items() if value is not None and name != "user_id"} for row in found]


async def month_of(connection: AsyncConnection, user: UserId, month: Month | None) -> Row | None:
    """A month that is over as it was saved, or what has been gathered since the last one; None if there is no such.

    Args:
        month: None for now, which has no `full_balance`.
    """
    if month is None:
        found = await _rows(connection, select(USER_METADATA).where(USER_METADATA.c.user_id == user))
        if not found or found[0]["display_currency"] is None:
            return None
        categories: Sequence[Row] = await categories_of(connection, user)
        income, expense = (
            sum(one["value"] for one in categories if one["budget_type"] == budget_type)
            for budget_type in ("income", "expense")
        )
        totals = {"income": income, "expense": expense, "month_balance": income - expense}
        head: Row = {"month": None, "currency": found[0]["display_currency"], **totals}
    else:
        saved = await _rows(
            connection, select(MONTH_SNAPSHOT).where(MONTH_SNAPSHOT.c.user_id == user, MONTH_SNAPSHOT.c.month == month)
        )
        if not saved:
            return None
        head = {name: value for name, value in saved[0].items() if name != "user_id"}
        categories = await _rows(
            connection,
            select(MONTH_CATEGORY)
            .where(MONTH_CATEGORY.c.user_id == user, MONTH_CATEGORY.c.month == month)
            .order_by(MONTH_CATEGORY.c.budget_type, MONTH_CATEGORY.c.value.desc(), MONTH_CATEGORY.c.category_id),
        )
    shares = [
        {
            "category_id": one.get("category_id", one.get("id")),
            "name": one["name"],
            "budget_type": one["budget_type"],
            "value": one["value"],
        }
        for one in categories
    ]
    return {**head, "categories": shares}


async def _rows(connection: AsyncConnection, statement: Select[Any]) -> list[Row]:
    return [dict(row) for row in (await connection.execute(statement)).mappings()]
