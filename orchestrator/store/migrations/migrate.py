"""Brings the engine's tables to this version of the engine, whichever worker comes first."""

from functools import cache
from pathlib import Path
from traceback import walk_tb

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.definition.databases import database_of
from orchestrator.errors import DefinitionError, Problem, Unreachable
from orchestrator.operation import HOME
from orchestrator.store.connections.errors import DatabaseCondition, condition_of
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import SCHEMA_VERSION, saga, saga_meta
from orchestrator.store.migrations import HOME_CONFIGURED
from orchestrator.store.migrations.index_building import build_missing_indexes
from orchestrator.store.migrations.lock import migrating
from orchestrator.store.saga.opening import insert_into

_OF_A_STATEMENT = (DatabaseCondition.FAILED, DatabaseCondition.TABLE_MISSING)
"""Errors that a statement of a migration is to blame for, and not the database."""
VERSION_TABLE = "saga_alembic_version"


def alembic_config(connection: Connection | None = None, *, is_home: bool = True) -> Config:
    """Alembic's configuration for the engine's tables, for those who run it themselves."""
    config = Config()
    _locate(config, Path(__file__).parent)
    config.attributes[HOME_CONFIGURED] = is_home
    if connection is not None:
        config.attributes["connection"] = connection
    return config


async def migrate(
    database: Database,
    *,
    name: str = HOME,
    namespace: str | None = None,
    cluster_id: str | None = None,
    application: MetaData | None = None,
    migrations: Path | None = None,
) -> None:
    """Create or upgrade the engine's tables. Safe to run from several workers at once.

    Args:
        database: where to.
        name: its name; one that is not home holds steps and no sagas.
        namespace: the Temporal namespace that this database belongs to, written once.
        cluster_id: the Temporal cluster's id, written once.
        application: the application's own tables; those of this database are created if they are missing (never
            altered).
        migrations: folder of the application's own Alembic migrations, which run first; home's alone.

    Raises:
        DefinitionError: a migration of the application fails.
        Unreachable: the database cannot be used, does not let us create tables, or is home and another at once.
    """
    try:
        async with migrating(database) as connection:
            await connection.run_sync(_upgrade, name, database.shown)
            if application is not None and migrations is not None and name == HOME:
                await connection.run_sync(_upgrade_reporting, migrations)
            if application is not None:
                tables = [table for table in application.sorted_tables if database_of(table) == name]
                await connection.run_sync(application.create_all, tables=tables)
            statement = insert_into(connection, saga_meta).values(
                id=1, schema_version=SCHEMA_VERSION, temporal_namespace=namespace, temporal_cluster_id=cluster_id
            )
            await connection.execute(statement.on_conflict_do_nothing())
        await build_missing_indexes(database)
    except (SQLAlchemyError, OSError) as fault:
        raise database.unreachable(fault) from fault


def _upgrade_reporting(connection: Connection, migrations: Path) -> None:
    """`upgrade_application`; what goes wrong in a migration itself is a fault of definition, at its line.

    Raises:
        DefinitionError: a migration fails, other than because the database is away or refuses permission.
    """
    try:
        upgrade_application(connection, migrations)
    except Exception as fault:
        is_statement = isinstance(fault, SQLAlchemyError) and condition_of(fault) in _OF_A_STATEMENT
        if isinstance(fault, SQLAlchemyError | OSError) and not is_statement:
            raise
        cause = getattr(fault, "orig", None) or fault
        first = (str(cause).splitlines() or [""])[0]
        file, line = _line_in(migrations, fault)
        text = f"the migration fails, and nothing of it was applied: {type(cause).__name__}: {first}"
        raise DefinitionError([Problem(file, line, text)]) from fault


def _line_in(folder: Path, fault: BaseException) -> tuple[str, int]:
    """The innermost line of the folder's code in an error's traceback, or the folder."""
    found = (str(folder), 0)
    root = str(folder.resolve())
    for frame, line in walk_tb(fault.__traceback__):
        if str(Path(frame.f_code.co_filename).resolve()).startswith(root):
            found = (str(folder / Path(frame.f_code.co_filename).resolve().relative_to(root)), line)
    return found


def upgrade_application(connection: Connection, migrations: Path) -> None:
    """Bring an application's tables to the newest of its own Alembic revisions; nothing is done where they are.

    Args:
        connection: in a transaction. The folder's `env.py` finds it as `config.attributes["connection"]`.
        migrations: the folder.
    """
    if MigrationContext.configure(connection).get_current_revision() == _newest(migrations):
        return
    config = Config()
    _locate(config, migrations)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _locate(config: Config, scripts: Path) -> None:
    """Set the folder of the revisions, in which Alembic reads a `%` as the beginning of a variable."""
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))


@cache
def _newest(migrations: Path) -> str | None:
    return ScriptDirectory(str(migrations)).get_current_head()


def _upgrade(connection: Connection, name: str, shown: str) -> None:
    is_home = name == HOME
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if current is not None and inspect(connection).has_table(saga.name) != is_home:
        # Both would write their rows of a step into one table.
        raise Unreachable(
            f"the database at {shown} cannot be {name!r}: "
            + ("it is another's, and holds no sagas" if is_home else "it is a home database")
            + ". Give each a database of its own, or take `database=...` out of the operations and tables that say so."
        )
    if current == head:
        return
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if current is not None and current not in known:
        raise Unreachable(
            f"the database's tables are of a newer engine (revision {current}); this one knows {head}: upgrade it."
        )
    command.upgrade(alembic_config(connection, is_home=is_home), "head")
