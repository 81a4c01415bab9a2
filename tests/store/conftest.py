"""A stocked database for the store's tests."""

import pytest

from orchestrator.store.core.database import Database
from tests import cast


@pytest.fixture
async def stocked(database: Database) -> Database:
    """A database with a thousand coins in box `a` and none in `b`."""
    async with database.transaction() as connection:
        await cast.stock(connection, a=1_000, b=0)
    return database
