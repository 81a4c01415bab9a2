"""Drops `saga_meta.schema_version`, because Alembic's own table already records the revision."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the column, which no code reads, and which only a starting worker writes."""
    op.drop_column("saga_meta", "schema_version")
