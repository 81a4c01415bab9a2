"""Reads a user's data from the tables, as rows for the commands. Amounts are integers of minor units."""

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
    """Return open accounts in the user's order. An account exceeds its limit if a spent deposit was undone."""
    columns = ("id", "name", "currency", "balance", "overdraft_limit", "icon", "colour", "position")
    accounts = await _rows(
        connection,
        select(*(ACCOUNT.c[name] for name in columns))
        .where(ACCOUNT.c.user_id == user, ACCOUNT.c.state == AccountState.OPEN)
        .order_by(ACCOUNT.c.position, ACCOUNT.c.id),
    )
    return [{**account, "is_over_limit": account["balance"] < -account["overdraft_limit"]} for account in accounts]


async def categories_of(connection: AsyncConnection, user: UserId) -> list[Row]:
    """Return categories: expenses before incomes, and the system category last within each type."""
    columns = ("id", "name", "budget_type", "currency", "value", "icon", "colour", "is_system", "reset_at")
    return await _rows(
        connection,
        select(*(CATEGORY.c[name] for name in columns))
        .where(CATEGORY.c.user_id == user)
        .order_by(CATEGORY.c.budget_type, CATEGORY.c.is_system, CATEGORY.c.name, CATEGORY.c.id),
    )


async def activity_of(connection: AsyncConnection, user: UserId, limit: int) -> list[Row]:
    """Return records, the latest first, without the columns that a record's kind leaves empty."""
    records = await _rows(
        connection,
        select(ACTIVITY_RECORD)
        .where(ACTIVITY_RECORD.c.user_id == user)
        .order_by(ACTIVITY_RECORD.c.occurred_at.desc(), ACTIVITY_RECORD.c.id)
        .limit(limit),
    )
    return [{name: value for name, value in row.items() if value is not None and name != "user_id"} for row in records]


async def month_of(connection: AsyncConnection, user: UserId, month: Month | None) -> Row | None:
    """Return a saved month, or the values since the last reset; None if the month or the user does not exist.

    Args:
        connection: an open connection.
        user: the user's id.
        month: a month that has ended, or None for the current values, which have no `full_balance`.
    """
    if month is None:
        metadata = await _rows(connection, select(USER_METADATA).where(USER_METADATA.c.user_id == user))
        if not metadata or metadata[0]["display_currency"] is None:
            return None
        categories: Sequence[Row] = await categories_of(connection, user)
        income, expense = (
            sum(category["value"] for category in categories if category["budget_type"] == budget_type)
            for budget_type in ("income", "expense")
        )
        totals = {"income": income, "expense": expense, "month_balance": income - expense}
        head: Row = {"month": None, "currency": metadata[0]["display_currency"], **totals}
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
            "category_id": category.get("category_id", category.get("id")),
            "name": category["name"],
            "budget_type": category["budget_type"],
            "value": category["value"],
        }
        for category in categories
    ]
    return {**head, "categories": shares}


async def _rows(connection: AsyncConnection, statement: Select[Any]) -> list[Row]:
    return [dict(row) for row in (await connection.execute(statement)).mappings()]
