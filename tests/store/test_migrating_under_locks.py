"""Migrations of large or locked tables: no step timeout ends them, and a waiting worker logs what it waits for."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, text

from orchestrator import DefinitionError
from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.core.database import Database
from orchestrator.store.migrations import lock as migration_lock
from orchestrator.store.migrations.lock import migrating
from orchestrator.store.migrations.migrate import migrate
from tests.conftest import Kind, new_database
from tests.house import eventually

_ENV = """
from alembic import context
context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
"""
_REVISION = """
from alembic import op
revision = "1"
down_revision = None
def upgrade():
    {body}
"""


def folder_of(root: Path, body: str) -> Path:
    """Create an application's migrations folder with one revision."""
    folder = root / "own_migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(_ENV)
    (folder / "versions" / "v1.py").write_text(_REVISION.format(body=body))
    return folder


async def until_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait until the words are logged."""

    async def is_logged() -> bool:
        return words in caplog.text

    await eventually(is_logged, words)


@pytest.fixture
async def hasty(database: Database) -> AsyncGenerator[Database]:
    """The same database with timeouts of a fraction of a second for steps."""
    url = database.url.render_as_string(hide_password=False)
    if database.dialect == "postgresql":
        url += "&options=-c%20lock_timeout=50ms%20-c%20statement_timeout=50ms"
        url += "%20-c%20idle_in_transaction_session_timeout=50ms"
    hasty = Database(url)
    yield hasty
    await hasty.close()


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_no_timeout_of_steps_ends_a_migration(hasty: Database, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 'op.execute("SELECT pg_sleep(0.3)"); __import__("time").sleep(0.3)')

    await migrate(hasty, application=MetaData(), migrations=folder)

    async with hasty.reading() as connection:
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == "1"
        assert await connection.scalar(text("SHOW statement_timeout")) == "50ms"


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_a_migration_waits_for_a_locked_table_and_reports_the_lock_holder(
    database: Database,
    hasty: Database,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migration_lock, "LOOK_AT_BLOCKERS", 0.1)
    folder = folder_of(tmp_path, 'op.execute("ALTER TABLE saga_meta ADD COLUMN extra INT")')

    async with database.transaction() as holding:
        await holding.execute(text("LOCK TABLE saga_meta IN ACCESS SHARE MODE"))
        pid = await holding.scalar(text("SELECT pg_backend_pid()"))
        waiting = asyncio.create_task(migrate(hasty, application=MetaData(), migrations=folder))
        await until_logged(caplog, f"has waited for a lock of process {pid} (orchestrator, idle in transaction)")
        assert not waiting.done()

    await waiting


async def test_a_second_worker_waits_for_the_first_and_reports_it(
    database: Database, hasty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with migrating(database):
            second = asyncio.create_task(migrate(hasty))
            await until_logged(caplog, "to finish changing the tables of")
            assert not second.done()

        await second

    assert "Waiting for " in caplog.text
    assert "was acquired after" in caplog.text


async def test_a_worker_that_waits_for_a_migration_can_be_cancelled_at_once(
    database: Database, hasty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with migrating(database):
        second = asyncio.create_task(migrate(hasty))
        await until_logged(caplog, "to finish changing the tables of")
        second.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await second

    await migrate(hasty)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ('op.execute("INSERT INTO saga_meta (id) VALUES (1), (1)")', "saga_meta"),
        ('op.execute("ALTER TABLE nowhere ADD COLUMN extra INT")', "nowhere"),
        ('raise KeyError("unknown account")', "KeyError: 'unknown account'"),
    ],
)
async def test_a_failed_migration_is_reported_with_its_error_and_line(
    database: Database, tmp_path: Path, body: str, error: str
) -> None:
    with pytest.raises(DefinitionError, match=r"own_migrations/versions/v1\.py:6") as raised:
        await migrate(database, application=MetaData(), migrations=folder_of(tmp_path, body))

    assert "the migration failed and was rolled back" in str(raised.value)
    assert error in str(raised.value)
    assert "cannot be reached" not in str(raised.value)


@pytest.mark.parametrize("kind", ["postgresql"])
async def test_a_user_without_permission_to_create_tables_gets_permission_denied(
    request: pytest.FixtureRequest, kind: Kind, postgres: str, tmp_path: Path
) -> None:
    url = await new_database(request, kind, tmp_path, empty=True)
    owner = Database(url)
    async with owner.transaction() as connection:
        await connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        await connection.execute(text("DO $$ BEGIN CREATE ROLE clerk LOGIN; EXCEPTION WHEN OTHERS THEN END $$"))
    clerk = Database(url.replace("postgres:@", "clerk@"))

    with pytest.raises(DatabaseUnusable, match="permission denied for schema public") as raised:
        await migrate(clerk)

    assert raised.value.condition is DatabaseCondition.PERMISSION_DENIED
    assert "cannot be reached" not in str(raised.value)
    await owner.close()
    await clerk.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["postgresql"])
async def test_an_index_on_a_million_rows_is_built_while_a_second_worker_waits(
    database: Database, hasty: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`test_no_timeout_of_steps_ends_a_migration` is the fast version of this test."""
    async with migrating(database) as connection:
        await connection.execute(text("CREATE TABLE coin (id INT, box TEXT)"))
        await connection.execute(text("INSERT INTO coin SELECT n, md5(n::text) FROM generate_series(1, 1000000) n"))
    folder = folder_of(tmp_path, 'op.create_index("coin_box", "coin", ["box", "id"])')

    await asyncio.gather(*(migrate(hasty, application=MetaData(), migrations=folder) for _ in range(2)))

    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pg_indexes WHERE indexname = 'coin_box'")) == 1
    assert "to finish changing the tables of" in caplog.text
