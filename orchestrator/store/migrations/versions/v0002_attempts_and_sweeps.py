"""Adds `saga_step.attempted_at` and `saga_meta.swept_until`, and drops a unique constraint of `saga`."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.core.columns import UtcTime
from orchestrator.store.migrations import is_home

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = UtcTime(timezone=True)


def upgrade() -> None:
    """Add the columns, and drop the constraint, because `saga.id` is already derived from the same two columns."""
    if is_home():
        with op.batch_alter_table("saga") as saga:
            saga.drop_constraint("uq_saga_orchestrator_event_id", type_="unique")
    op.add_column("saga_step", sa.Column("attempted_at", _TIME, nullable=True))
    op.add_column("saga_meta", sa.Column("swept_until", _TIME, nullable=True))
    unsettled = sa.text("kind = 'external' AND attempted_at IS NOT NULL")
    op.create_index(
        "ix_saga_step_outside", "saga_step", ["saga_id", "number"], postgresql_where=unsettled, sqlite_where=unsettled
    )
    op.execute("UPDATE saga_meta SET schema_version = 2")
