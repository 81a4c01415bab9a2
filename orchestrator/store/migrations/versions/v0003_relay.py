"""Adds two things for the relay: when a row may be sent next, and an index of the unsent rows of each ordering key."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.core.columns import UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a nullable column and an index; older workers write rows as before."""
    op.add_column("saga_outbox", sa.Column("next_at", UtcTime(timezone=True), nullable=True))
    unsent = sa.text("sent_at IS NULL AND ordering_key IS NOT NULL")
    op.create_index(
        "ix_saga_outbox_unsent_key",
        "saga_outbox",
        ["ordering_key", "id"],
        postgresql_where=unsent,
        sqlite_where=unsent,
    )
    op.execute("UPDATE saga_meta SET schema_version = 3")
