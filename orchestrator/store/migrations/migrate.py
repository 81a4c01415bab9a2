"""Upgrades the engine's tables to the revision of this engine; the first worker that starts does it."""

from functools import cache
from pathlib import Path
from traceback import walk_tb

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.definition.checks.databases import database_of
from orchestrator.errors import DefinitionError, Problem, Unreachable
from orchestrator.operation import HOME
from orchestrator.store.connections.errors import DatabaseCondition, condition_of
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_meta
from orchestrator.store.migrations import HOME_CONFIGURED
from orchestrator.store.migrations.index_building import build_missing_indexes
from orchestrator.store.migrations.lock import migrating
from orchestrator.store.saga.opening import insert_into

_STATEMENT_FAULTS = (DatabaseCondition.FAILED, DatabaseCondition.TABLE_MISSING)
"""Conditions that point to a wrong statement in a migration and not to the database."""
VERSION_TABLE = "saga_alembic_version"


def alembic_config(connection: Connection | None = None, *, is_home: bool = True) -> Config:
    """Return Alembic's configuration for the engine's tables, also for callers that run Alembic themselves."""
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
    """Create or upgrade the engine's tables. Several workers may do so concurrently.

    Args:
        database: the database to upgrade.
        name: the name of the database; any database other than home holds only steps, not sagas.
        namespace: the Temporal namespace that this database belongs to; written once and never changed here.
        cluster_id: the id of the Temporal cluster; written once and never changed here.
        application: the application's own tables. Those that belong in this database are created if they are missing;
            existing ones are not altered.
        migrations: the folder of the application's own Alembic migrations. They run before its tables are created, and
            only in the home database.

    Raises:
        DefinitionError: a migration of the application failed.
        Unreachable: the database cannot be used, refuses to create tables, or is configured both as home and as remote.
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
                id=1, temporal_namespace=namespace, temporal_cluster_id=cluster_id
            )
            await connection.execute(statement.on_conflict_do_nothing())
        await build_missing_indexes(database)
    except (SQLAlchemyError, OSError) as fault:
        raise database.unreachable(fault) from fault


def _upgrade_reporting(connection: Connection, migrations: Path) -> None:
    """Run `upgrade_application`, and report an error in a migration as a definition fault with its file and line.

    Raises:
        DefinitionError: a migration failed for a reason other than an unreachable database or a missing permission.
    """
    try:
        upgrade_application(connection, migrations)
    except Exception as fault:
        is_statement = isinstance(fault, SQLAlchemyError) and condition_of(fault) in _STATEMENT_FAULTS
        if isinstance(fault, SQLAlchemyError | OSError) and not is_statement:
            raise
        cause = getattr(fault, "orig", None) or fault
        first_line = (str(cause).splitlines() or [""])[0]
        file, line = _line_in(migrations, fault)
        text = f"the migration failed and was rolled back: {type(cause).__name__}: {first_line}"
        raise DefinitionError([Problem(file, line, text)]) from fault


def _line_in(folder: Path, fault: BaseException) -> tuple[str, int]:
    """Return the innermost line of an error's traceback that is in the folder, or the folder itself with line 0."""
    innermost = (str(folder), 0)
    root = str(folder.resolve())
    for frame, line in walk_tb(fault.__traceback__):
        if str(Path(frame.f_code.co_filename).resolve()).startswith(root):
            innermost = (str(folder / Path(frame.f_code.co_filename).resolve().relative_to(root)), line)
    return innermost


def upgrade_application(connection: Connection, migrations: Path) -> None:
    """Upgrade an application's tables to its newest Alembic revision; do nothing if they are already there.

    Args:
        connection: a connection in a transaction. The folder's `env.py` gets it as `config.attributes["connection"]`.
        migrations: the folder of the application's migrations.
    """
    if MigrationContext.configure(connection).get_current_revision() == _newest(migrations):
        return
    config = Config()
    _locate(config, migrations)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _locate(config: Config, scripts: Path) -> None:
    """Set the folder of the revisions; `%` is escaped because Alembic would read it as the start of a variable."""
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))


@cache
def _newest(migrations: Path) -> str | None:
    return ScriptDirectory(str(migrations)).get_current_head()


def _upgrade(connection: Connection, name: str, shown: str) -> None:
    is_home = name == HOME
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if current is not None and inspect(connection).has_table(saga.name) != is_home:
        # If one database were home and remote, a step's home row and its remote row would be in the same table.
        raise Unreachable(
            f"The database at {shown} cannot be used as {name!r}, because "
            + ("it is a remote database and holds no sagas" if is_home else "it is a home database")
            + ". Give each its own database, or remove `database=...` from the operations and tables that have it."
        )
    if current == head:
        return
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if current is not None and current not in known:
        raise Unreachable(
            f"The tables of the database at {shown} were created by a newer engine (revision {current}); this engine "
            f"knows revisions up to {head}. Upgrade the engine."
        )
    command.upgrade(alembic_config(connection, is_home=is_home), "head")
