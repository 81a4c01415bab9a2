"""Migrations of the engine's tables, by Alembic; `orchestrator.store.migrations.migrate` runs them.

One line of revisions for every database. Where it is not home, a revision leaves out what only home has.
"""

from collections.abc import Sequence

from alembic import context, op
from sqlalchemy import text

HOME_CONFIGURED = "is_home"
"""Attribute of Alembic's configuration: whether the database is home, as it is unless told."""


def is_home() -> bool:
    """Whether the database that is migrated just now holds sagas."""
    return bool(context.config.attributes.get(HOME_CONFIGURED, True))


def create_index(name: str, table: str, columns: Sequence[str], *, where: str | None = None) -> None:
    """Create an index, except on a PostgreSQL table that has rows.

    There it would block writes until the migration's transaction ends; `building_indexes` builds it afterwards instead.
    """
    connection = op.get_bind()
    has_rows = connection.execute(text(f"SELECT 1 FROM {table} LIMIT 1")).first() is not None  # noqa: S608
    if has_rows and connection.dialect.name == "postgresql":
        return
    condition = None if where is None else text(where)
    op.create_index(name, table, list(columns), postgresql_where=condition, sqlite_where=condition)
