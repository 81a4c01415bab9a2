"""Fixtures of the application's tests: new books of each kind, with or without a running worker."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from temporalio.client import Client

from orchestrator.store.core.database import Database
from starter.seed import seed
from tests.app.books import Books
from tests.app.faults import Faults
from tests.app.running import RunningBooks, open_books
from tests.app.scenarios import CATALOG
from tests.conftest import TEMPLATE, Kind, copied_database, copy_sqlite
from tests.spare_databases import SpareDatabases, create_database

_SEEDED = "template_seeded"


@pytest.fixture(scope="session")
async def seeded_sqlite(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the demo's data, to be copied."""
    file = tmp_path_factory.mktemp("seeded") / "seeded.db"
    copy_sqlite(sqlite_template, file)
    await _seed(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
async def seeded_databases(postgres: str) -> SpareDatabases:
    """PostgreSQL databases with the demo's data that tests use one after another."""
    await _seed(await create_database(postgres, _SEEDED, template=TEMPLATE))
    return SpareDatabases(postgres, _SEEDED)


async def _seed(url: str) -> None:
    database = Database(url)
    async with database.transaction() as connection:
        await seed(connection)
    await database.close()


@pytest.fixture
async def seeded(
    kind: Kind, seeded_sqlite: Path, seeded_databases: SpareDatabases, tmp_path: Path
) -> AsyncGenerator[Database]:
    """A database with SmartExpense's tables and the demo's accounts and rates."""
    async with copied_database(kind, seeded_databases, seeded_sqlite, tmp_path) as database:
        yield database


@pytest.fixture
async def books(seeded: Database) -> Books:
    """SmartExpense's tables with the demo's accounts and rates."""
    return Books(seeded)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Faults that a test may set; there are none at first."""
    return Faults(CATALOG, monkeypatch)


@pytest.fixture
async def running(seeded: Database, client: Client, faults: Faults) -> AsyncGenerator[RunningBooks]:
    """SmartExpense with a worker on the real server, the demo's data and one more account."""
    async with open_books(client, seeded) as opened:
        yield opened
