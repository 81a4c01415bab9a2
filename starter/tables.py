"""SmartExpense's tables, without the engine's."""

from pathlib import Path
from typing import cast

from sqlalchemy import Table, inspect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from activities.account import Account
from activities.activity_log_model import ActivityRecord
from activities.category_model import Category, CategoryConversion
from activities.metadata import ExchangeRate, UserMetadata
from activities.snapshot import MonthCategory, MonthSnapshot
from orchestrator.store.migrations.migrate import upgrade_application

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def _table(model: type[SQLModel]) -> Table:
    return cast(Table, inspect(model).local_table)


ACCOUNT = _table(Account)
ACTIVITY_RECORD = _table(ActivityRecord)
CATEGORY = _table(Category)
CATEGORY_CONVERSION = _table(CategoryConversion)
EXCHANGE_RATE = _table(ExchangeRate)
MONTH_CATEGORY = _table(MonthCategory)
MONTH_SNAPSHOT = _table(MonthSnapshot)
USER_METADATA = _table(UserMetadata)

APPLICATION_TABLES = (
    ACCOUNT,
    CATEGORY,
    CATEGORY_CONVERSION,
    ACTIVITY_RECORD,
    EXCHANGE_RATE,
    USER_METADATA,
    MONTH_SNAPSHOT,
    MONTH_CATEGORY,
)
"""Every table of SmartExpense. A table comes after the tables to which its foreign keys refer."""


async def create_tables(connection: AsyncConnection) -> None:
    """Create the application's tables, or upgrade them to this version. Their rows are kept."""
    await connection.run_sync(upgrade_application, MIGRATIONS)
