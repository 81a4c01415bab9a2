"""Migrations of the engine's tables, by Alembic; `orchestrator.store.migrations.migrate` runs them.

Every database has the same sequence of revisions. In a remote database a revision skips the tables that only home has.
"""

from collections.abc import Sequence

from alembic import context, op
from sqlalchemy import text

HOME_CONFIGURED = "is_home"
"""The attribute of Alembic's configuration that says whether the database is home; home is the default."""


def is_home() -> bool:
    """Whether the database being migrated is home, which holds the sagas."""
    return bool(context.config.attributes.get(HOME_CONFIGURED, True))


def create_index(name: str, table: str, columns: Sequence[str], *, where: str | None = None) -> None:
    """Create an index, except on a PostgreSQL table that has rows.

    There, creating it would block writes until the migration's transaction ends, so `index_building` builds it later.
    """
    connection = op.get_bind()
    has_rows = connection.execute(text(f"SELECT 1 FROM {table} LIMIT 1")).first() is not None  # noqa: S608
    if has_rows and connection.dialect.name == "postgresql":
        return
    condition = None if where is None else text(where)
    op.create_index(name, table, list(columns), postgresql_where=condition, sqlite_where=condition)
