"""Fixtures of the application's tests: new books of each kind, with or without a running worker."""

from collections.abc import AsyncGenerator

import pytest
from temporalio.client import Client

from orchestrator.store.core.database import Database
from starter.seed import seed
from tests.app.books import Books
from tests.app.faults import Faults
from tests.app.running import RunningBooks, open_books
from tests.app.scenarios import CATALOG


@pytest.fixture
async def books(database: Database) -> Books:
    """SmartExpense's tables with the demo's accounts and rates."""
    async with database.transaction() as connection:
        await seed(connection)
    return Books(database)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Faults that a test may set; there are none at first."""
    return Faults(CATALOG, monkeypatch)


@pytest.fixture
async def running(database: Database, client: Client, faults: Faults) -> AsyncGenerator[RunningBooks]:
    """SmartExpense with a worker on the real server, the demo's data and one more account."""
    async with open_books(client, database) as opened:
        yield opened
