"""Drops `saga_meta.schema_version`, because Alembic's own table already records the revision."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the column, which is read by nothing and written only by a worker that starts."""
    op.drop_column("saga_meta", "schema_version")
