"""Adds `saga.details`, which holds the details of the refusal that caused a saga to be undone."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.migrations import is_home

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that is NULL in existing rows."""
    if is_home():
        op.add_column("saga", sa.Column("details", sa.Text(), nullable=True))
