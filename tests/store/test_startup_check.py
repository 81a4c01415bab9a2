"""A worker checks its database before it starts and reports each problem with its own message."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.store.connections import startup_check
from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate
from tests.conftest import Kind, new_database

on_postgresql = pytest.mark.parametrize("kind", ["postgresql"])


@pytest.fixture
async def url(request: pytest.FixtureRequest, kind: Kind, postgres: str, sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a migrated database for one test."""
    return await new_database(request, kind, tmp_path)


async def as_owner(url: str, *statements: str) -> None:
    """Run statements outside of transactions, as PostgreSQL's superuser."""
    owner = Database(url)
    async with owner.engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.execute(text(statement))
    await owner.close()


async def refusal(url: str) -> DatabaseUnusable:
    """The error of a worker that starts on a database."""
    database = Database(url)
    try:
        with pytest.raises(DatabaseUnusable) as raised:
            await database.check()
    finally:
        await database.close()
    assert "cannot be reached" not in str(raised.value)
    return raised.value


async def check_starts(url: str) -> None:
    """Check that a worker passes its checks and its migration."""
    database = Database(url)
    await database.check()
    await migrate(database)
    await database.close()


def name_of(url: str) -> str:
    """The name of a test database from its URL."""
    return url.split("?", 1)[0].rpartition("/")[2]


@pytest.fixture
async def latin(url: str) -> str:
    """The URL of another database on the same server, with the encoding LATIN1."""
    name = f"{name_of(url)}_latin"
    await as_owner(url, f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    return url.replace(name_of(url), name)


@on_postgresql
async def test_an_encoding_other_than_utf_8_is_refused(latin: str) -> None:
    error = await refusal(latin)

    assert error.condition is DatabaseCondition.MISCONFIGURED
    assert "has the encoding LATIN1" in str(error)


@on_postgresql
async def test_an_old_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_check, "MINIMUM_VERSION", 99)

    assert "the engine needs 99 or newer" in str(await refusal(url))


@on_postgresql
async def test_a_read_only_database_is_refused(url: str) -> None:
    await as_owner(url, f"ALTER DATABASE {name_of(url)} SET default_transaction_read_only = on")

    error = await refusal(url)

    assert error.condition is DatabaseCondition.READ_ONLY
    assert "default_transaction_read_only" in str(error)


@on_postgresql
async def test_a_search_path_without_a_schema_is_refused(url: str) -> None:
    error = await refusal(f"{url}&options=-c%20search_path=nowhere")

    assert error.condition is DatabaseCondition.MISCONFIGURED
    assert "search_path (nowhere)" in str(error)


@on_postgresql
async def test_tables_in_two_schemas_of_the_search_path_are_refused(url: str) -> None:
    await as_owner(url, "CREATE SCHEMA shop", "ALTER TABLE saga_step SET SCHEMA shop")

    error = await refusal(f"{url}&options=-c%20search_path=shop,public")

    assert "in several schemas (public, shop)" in str(error)


@on_postgresql
async def test_a_search_path_that_hides_the_tables_is_a_warning(url: str, caplog: pytest.LogCaptureFixture) -> None:
    await as_owner(url, "CREATE SCHEMA shop")

    await check_starts(f"{url}&options=-c%20search_path=shop")

    assert "has the engine's tables in the schema public, which is not in the search_path (shop)" in caplog.text


@on_postgresql
async def test_missing_privileges_are_named_and_suffice_once_granted(url: str) -> None:
    await as_owner(url, "DO $$ BEGIN CREATE ROLE teller LOGIN; EXCEPTION WHEN OTHERS THEN END $$")
    teller = url.replace("postgres:@", "teller@")

    error = await refusal(teller)
    await as_owner(
        url,
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO teller",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO teller",
    )

    assert error.condition is DatabaseCondition.PERMISSION_DENIED
    assert "does not grant the role teller what steps need: " in str(error)
    await check_starts(teller)


@on_postgresql
@pytest.mark.parametrize(("user", "condition"), [("nobody", "login_refused"), ("postgres", "no_such_database")])
async def test_a_refused_login_and_a_missing_database_have_different_conditions(
    url: str, user: str, condition: str
) -> None:
    error = await refusal(url.replace("postgres:@", f"{user}@").replace(name_of(url), "nowhere"))

    assert error.condition.value == f"database.{condition}"


@on_postgresql
async def test_a_server_without_a_free_connection_is_reported_as_running(url: str) -> None:
    await as_owner(
        url,
        "DO $$ BEGIN CREATE ROLE visitor LOGIN; EXCEPTION WHEN OTHERS THEN END $$",
        f"ALTER DATABASE {name_of(url)} CONNECTION LIMIT 0",
    )

    error = await refusal(url.replace("postgres:@", "visitor@"))

    assert error.condition is DatabaseCondition.NO_CONNECTION_LEFT
    assert "runs, but has no connection left" in str(error)


@on_postgresql
async def test_a_setting_that_may_lose_commits_is_a_warning(url: str, caplog: pytest.LogCaptureFixture) -> None:
    await check_starts(f"{url}&options=-c%20synchronous_commit=off")

    assert "synchronous_commit = off: a confirmed commit may be lost" in caplog.text


@on_postgresql
async def test_irrelevant_server_settings_may_have_any_value(url: str) -> None:
    name = name_of(url)
    await as_owner(
        url,
        f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'",
        f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'",
        f"ALTER DATABASE {name} SET standard_conforming_strings = off",
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
    )

    await check_starts(url)


async def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database" * 100)

    assert (await refusal(f"sqlite:///{file}")).condition is DatabaseCondition.NOT_A_DATABASE


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize(
    ("read_only", "words"), [("folder", "its folder"), ("file", "is a file that this user cannot")]
)
async def test_a_file_or_folder_without_write_permission_is_refused(
    url: str, read_only: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(url.removeprefix("sqlite:///"))
    refused = file.parent if read_only == "folder" else file

    def access(path: Path, _mode: int) -> bool:  # replaced because tests may run as root, who may write everything
        return path != refused

    monkeypatch.setattr("os.access", access)
    error = await refusal(url)

    assert error.condition is DatabaseCondition.READ_ONLY
    assert words in str(error)


async def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in str(await refusal(f"sqlite:///{tmp_path}"))


async def test_a_database_file_in_utf_16_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "wide.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16'")
        connection.execute("CREATE TABLE note (text TEXT)")
        connection.execute("INSERT INTO note VALUES ('Київ 🍀')")

    await check_starts(f"sqlite:///{file}")


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_check_does_not_wait_for_a_writing_process(url: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as writing:
        writing.execute("BEGIN IMMEDIATE")
        database = Database(url)

        await database.check()

        await database.close()
