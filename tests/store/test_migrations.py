"""The migrations produce exactly the tables of the model, even if several workers migrate at once."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from orchestrator import Unreachable
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import metadata, saga_meta
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.store.migrations.index_building import build_missing_indexes
from orchestrator.store.migrations.migrate import VERSION_TABLE, migrate
from tests.house import eventually, rows
from tests.store.pacing import waits_for_lock
from tests.store.test_recovery import add_saga


def differences(connection: Connection) -> list[object]:
    """The changes that Alembic would generate for the engine's tables."""
    engine_tables = set(metadata.tables)

    def include(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in engine_tables

    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "compare_server_default": False,
            "include_name": include,
        },
    )
    return list(compare_metadata(context, metadata))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


async def test_the_migrations_produce_the_tables_of_the_model(database: Database) -> None:
    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_comparison_detects_a_missing_column(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE saga_dead_letter DROP COLUMN settled_as"))

    async with database.reading() as connection:
        assert len(await connection.run_sync(differences)) == 1


async def test_several_workers_migrate_at_once_and_the_namespace_is_written_once(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))

    await asyncio.gather(*(migrate(database, namespace=f"namespace-{number}") for number in range(6)))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []
    assert len(await rows(database, saga_meta)) == 1


NEWEST_INDEXES = [
    *("ix_saga_orchestrator_created_at", "ix_saga_stuck", "ix_saga_undone", "ix_saga_undone_orchestrator"),
    *("ix_saga_dead_letter_code_id", "ix_saga_dead_letter_source_id", "ix_saga_dead_letter_created_at"),
    *("ix_saga_dead_letter_open", "ix_saga_dead_letter_event_id_id"),
]


async def downgrade_to_revision_5(database: Database) -> None:
    """Revert the last revision, with rows in the tables."""
    await add_saga(database)
    await store_dead_letter(database, DeadLetter(Inbound("event", 1, b"{}"), "event.not_json", "x", "w", "r"))
    async with database.transaction() as connection:
        for index in NEWEST_INDEXES:
            await connection.execute(text(f"DROP INDEX {index}"))
        await connection.execute(text("ALTER TABLE saga_dead_letter DROP COLUMN event_id"))
        await connection.execute(text("ALTER TABLE saga_dead_letter RENAME COLUMN source TO door"))
        await connection.execute(text("ALTER TABLE saga DROP COLUMN details"))
        await connection.execute(text("ALTER TABLE saga_meta ADD COLUMN schema_version INTEGER NOT NULL DEFAULT 5"))
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0005'"))


async def test_several_workers_upgrade_tables_that_have_rows(database: Database) -> None:
    await downgrade_to_revision_5(database)

    await asyncio.gather(*(migrate(database) for _ in range(3)))
    await migrate(database)

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_sagas_are_written_while_an_index_is_built(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("DROP INDEX ix_saga_stuck"))
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE saga SET message = 'open'"))
        migrating = asyncio.create_task(migrate(database))

        async def waits() -> bool:
            return await waits_for_lock(database)

        await eventually(waits, "the build waits for the open transaction")
        # If the build locked the table, this and every step would wait until the lock timeout.
        await asyncio.wait_for(add_saga(database), timeout=5)
        assert not migrating.done()
    await migrating

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_an_invalid_index_left_by_an_interrupted_build_is_built_again(database: Database) -> None:
    async with database.transaction() as connection:
        invalidate = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_saga_stuck'::regclass"
        await connection.execute(text(invalidate))

    assert await build_missing_indexes(database) == ["ix_saga_stuck"]
    assert await build_missing_indexes(database) == []


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_failed_index_build_is_logged_with_a_remedy_and_stops_no_worker(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("DROP INDEX ix_saga_stuck"))
        await connection.execute(text("CREATE TABLE ix_saga_stuck (id integer)"))

    await migrate(database)

    assert "could not be built" in caplog.text
    assert "CREATE INDEX CONCURRENTLY ix_saga_stuck ON public.saga" in caplog.text


async def test_tables_of_a_newer_engine_are_refused_and_not_changed(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    with pytest.raises(Unreachable, match="newer engine"):
        await migrate(database)


async def test_an_unreachable_database_is_reported_without_its_password() -> None:
    nowhere = Database("postgresql://somebody:secret@127.0.0.1:1/none")

    with pytest.raises(Unreachable) as raised:
        await nowhere.check()

    assert "127.0.0.1" in str(raised.value)
    assert "ORCHESTRATOR_DATABASE_URL" in str(raised.value)
    assert "secret" not in str(raised.value)
    await nowhere.close()


@pytest.mark.parametrize("url", ["not a url", "mysql://localhost/x"])
def test_an_invalid_database_url_is_refused(url: str) -> None:
    with pytest.raises(Unreachable, match="ORCHESTRATOR_DATABASE_URL"):
        Database(url)
