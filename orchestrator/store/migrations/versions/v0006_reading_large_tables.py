"""Adds indexes so that no command scans a large table, and the event id of a dead letter."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.migrations import create_index, is_home

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that is NULL in existing rows, and the indexes."""
    if is_home():
        op.add_column("saga_dead_letter", sa.Column("event_id", sa.String(length=128), nullable=True))
        create_index("ix_saga_orchestrator_created_at", "saga", ["orchestrator", "created_at"])
        create_index(
            "ix_saga_stuck", "saga", ["created_at"], where="stuck_step IS NOT NULL AND phase IN ('forward', 'undoing')"
        )
        undone = "phase IN ('failed', 'cancelled')"
        create_index("ix_saga_undone", "saga", ["phase", "created_at"], where=undone)
        create_index("ix_saga_undone_orchestrator", "saga", ["orchestrator", "phase", "created_at"], where=undone)
        create_index("ix_saga_dead_letter_event_id_id", "saga_dead_letter", ["event_id", "id"])
        create_index("ix_saga_dead_letter_code_id", "saga_dead_letter", ["code", "id"])
        create_index("ix_saga_dead_letter_door_id", "saga_dead_letter", ["door", "id"])
        create_index("ix_saga_dead_letter_created_at", "saga_dead_letter", ["created_at"])
        create_index("ix_saga_dead_letter_open", "saga_dead_letter", ["id"], where="settled_at IS NULL")
    op.execute("UPDATE saga_meta SET schema_version = 6")
