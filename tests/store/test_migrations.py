"""The engine's tables: by migration and by model they are the same, whoever comes first."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from orchestrator import Unreachable
from orchestrator.store.database import Database
from orchestrator.store.migrate import VERSION_TABLE, migrate
from orchestrator.store.schema import metadata, saga_meta
from tests.house import rows


def differences(connection: Connection) -> list[object]:
    """What a migration would still have to change, the cast's own tables left out."""
    ours = set(metadata.tables)

    def include(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in ours

    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "compare_server_default": False,
            "include_name": include,
        },
    )
    return list(compare_metadata(context, metadata))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


async def test_tables_by_migration_are_the_tables_of_the_model(database: Database) -> None:
    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_missing_column_would_be_seen(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE saga_dead_letter DROP COLUMN settled_as"))

    async with database.reading() as connection:
        assert len(await connection.run_sync(differences)) == 1


async def test_many_workers_may_migrate_at_once_and_the_namespace_is_written_once(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))

    await asyncio.gather(*(migrate(database, namespace=f"namespace-{number}") for number in range(6)))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []
    assert len(await rows(database, saga_meta)) == 1


async def test_tables_of_a_newer_engine_are_left_alone_with_a_clear_sentence(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    with pytest.raises(Unreachable, match="newer engine"):
        await migrate(database)


async def test_a_database_that_is_not_there_is_told_in_one_sentence_without_its_password() -> None:
    nowhere = Database("postgresql://somebody:secret@127.0.0.1:1/none")

    with pytest.raises(Unreachable) as told:
        await nowhere.check()

    assert "127.0.0.1" in str(told.value)
    assert "ORCHESTRATOR_DATABASE_URL" in str(told.value)
    assert "secret" not in str(told.value)
    await nowhere.close()


@pytest.mark.parametrize("url", ["not a url", "mysql://localhost/x"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(Unreachable, match="ORCHESTRATOR_DATABASE_URL"):
        Database(url)
