"""The application's tables, and none of the engine's."""

from typing import cast

from sqlalchemy import Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.account import Account
from activities.activity_log import ActivityRecord
from activities.metadata import ExchangeRate, UserMetadata


def _table(model: type[SQLModel]) -> Table:
    return cast(Table, inspect(model).local_table)


ACCOUNT = _table(Account)
ACTIVITY_RECORD = _table(ActivityRecord)
EXCHANGE_RATE = _table(ExchangeRate)
USER_METADATA = _table(UserMetadata)

APPLICATION_TABLES = (ACCOUNT, ACTIVITY_RECORD, EXCHANGE_RATE, USER_METADATA)
"""Every table of SmartExpense."""


async def create_tables(connection: AsyncConnection) -> None:
    """Create the application's tables where they are missing; those that are there stay as they are."""
    await connection.run_sync(SQLModel.metadata.create_all, tables=list(APPLICATION_TABLES))
