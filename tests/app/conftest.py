"""New books for each test, on each kind of database."""

import pytest

from orchestrator.store.database import Database
from starter.seed import seed
from tests.app.books import Books


@pytest.fixture
async def books(database: Database) -> Books:
    """SmartExpense's tables with the demo's accounts and rates."""
    async with database.transaction() as connection:
        await seed(connection)
    return Books(database)
