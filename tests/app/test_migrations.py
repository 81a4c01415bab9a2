"""SmartExpense's tables: migrations and models give the same tables, and rows of an older version survive."""

from collections.abc import Mapping
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, inspect, text

from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import upgrade_application
from starter.invariants import violations
from starter.tables import APPLICATION_TABLES, MIGRATIONS
from tests.app.books import Books
from tests.app.samples import a_transfer
from workflows.money_transfer import MoneyTransfer

_METADATA = APPLICATION_TABLES[0].metadata

_OLD_ROWS = (
    "INSERT INTO account (id, user_id, name, currency, balance, opening_balance, overdraft_limit, icon, colour,"
    " position, state) VALUES ('olena-usd', 'olena', 'Wallet', 'USD', 9000, 10000, 0, 'wallet', '#2f9e44', 1, 'open'),"
    " ('olena-eur', 'olena', 'Travel', 'EUR', 920, 0, 50, 'plane', '#1971c2', 2, 'open')",
    "INSERT INTO activity_record (id, user_id, kind, occurred_at, event_id, account_id, amount, currency) VALUES"
    " ('00000000000040008000000000000001', 'olena', 'account_created', '2026-01-01 00:00:00', 'one', 'olena-usd',"
    " 10000, 'USD'), ('00000000000040008000000000000002', 'olena', 'account_created', '2026-01-01 00:00:00', 'two',"
    " 'olena-eur', 0, 'EUR')",
    "INSERT INTO activity_record (id, user_id, kind, occurred_at, event_id, from_account_id, to_account_id, amount_out,"
    " currency_out, amount_in, currency_in, rate) VALUES ('00000000000040008000000000000003', 'olena',"
    " 'money_transfer', '2026-01-02 00:00:00', 'three', 'olena-usd', 'olena-eur', 1000, 'USD', 920, 'EUR', '0.92')",
    "INSERT INTO user_metadata (user_id, account_count) VALUES ('olena', 2)",
    "INSERT INTO exchange_rate (base, quote, rate, as_of) VALUES ('USD', 'EUR', '0.92', '2026-01-01')",
)


def shape(connection: Connection) -> dict[str, Any]:
    """Describe every table of the application as the database reports it."""
    inspector = inspect(connection)

    def checks(table: Table) -> Mapping[str | None, str]:
        return {
            constraint["name"]: constraint["sqltext"].replace("\n", " ")
            for constraint in inspector.get_check_constraints(table.name)
        }

    return {
        table.name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"])
                for column in inspector.get_columns(table.name)
            },
            "key": inspector.get_pk_constraint(table.name)["constrained_columns"],
            "foreign keys": {
                key["name"]: (key["constrained_columns"], key["referred_table"], key["referred_columns"])
                for key in inspector.get_foreign_keys(table.name)
            },
            "indexes": {
                index["name"]: (index["column_names"], index["unique"]) for index in inspector.get_indexes(table.name)
            },
            "checks": checks(table),
        }
        for table in APPLICATION_TABLES
    }


def differences_from_models(connection: Connection) -> list[Any]:
    """Return what Alembic would still change."""
    names = {table.name for table in APPLICATION_TABLES}

    def include(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in names

    context = MigrationContext.configure(connection, opts={"include_name": include})
    differences: list[Any] = list(compare_metadata(context, _METADATA))
    return differences


def upgrade_to(connection: Connection, revision: str) -> None:
    """Upgrade the tables to a version."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def drop_everything(connection: Connection) -> None:
    """Drop every table of the application, with its version."""
    existing = MetaData()
    existing.reflect(connection, only=lambda name, _: name == "alembic_version" or name in _METADATA.tables)
    existing.drop_all(connection)


async def test_the_migrations_create_the_tables_of_the_models(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(drop_everything)
        await connection.run_sync(_METADATA.create_all, tables=list(APPLICATION_TABLES))
        by_model = await connection.run_sync(shape)
        await connection.run_sync(drop_everything)
        await connection.run_sync(upgrade_application, MIGRATIONS)

        assert await connection.run_sync(shape) == by_model
        assert await connection.run_sync(differences_from_models) == []


async def test_rows_of_the_first_release_survive_and_can_be_used(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(drop_everything)
        await connection.run_sync(upgrade_to, "0001")
        await connection.execute(text("DROP TABLE alembic_version"))  # the first release had none
        for statement in _OLD_ROWS:
            await connection.execute(text(statement))
        await connection.run_sync(upgrade_application, MIGRATIONS)

        assert await violations(connection) == []
    books = Books(database)
    balances = {key[0]: row["balance"] for key, row in (await books.snapshot())["account"].items()}
    assert balances == {"olena-usd": 9_000, "olena-eur": 920}

    await books.handle(MoneyTransfer, a_transfer())

    assert await books.violations() == []
    assert len((await books.snapshot())["activity_record"]) == 4


async def test_upgrading_again_changes_nothing(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(upgrade_application, MIGRATIONS)
        before = await connection.run_sync(shape)
        await connection.run_sync(upgrade_application, MIGRATIONS)

        assert await connection.run_sync(shape) == before
