"""Adds indexes for retention and listening: unpurged ended sagas, events by time, and settled dead letters."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.migrations import is_home

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes."""
    if is_home():
        unpurged = sa.text("finished_at IS NOT NULL AND purged_at IS NULL")
        op.create_index("ix_saga_unpurged", "saga", ["finished_at"], postgresql_where=unpurged, sqlite_where=unpurged)
        settled = sa.text("settled_at IS NOT NULL")
        op.create_index(
            "ix_saga_dead_letter_settled",
            "saga_dead_letter",
            ["settled_at"],
            postgresql_where=settled,
            sqlite_where=settled,
        )
    op.create_index("ix_saga_outbox_created_at", "saga_outbox", ["created_at"])
    op.execute("UPDATE saga_meta SET schema_version = 5")
