"""New books for each test, on each kind of database; those that run do so with faults to be set."""

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
    """None yet."""
    return Faults(CATALOG, monkeypatch)


@pytest.fixture
async def running(database: Database, client: Client, faults: Faults) -> AsyncGenerator[RunningBooks]:
    """SmartExpense at work on the real server, with the demo's data and one account more."""
    async with open_books(client, database) as made:
        yield made
