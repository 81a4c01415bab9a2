"""Renames `saga_dead_letter.door` to `source`, the word of the glossary, together with its index."""

from alembic import op

from orchestrator.store.migrations import create_index, is_home

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_OLD_INDEX, _NEW_INDEX = "ix_saga_dead_letter_door_id", "ix_saga_dead_letter_source_id"


def upgrade() -> None:
    """Rename the column and the index. The index may be missing, because `index_building` may not have built it yet."""
    if not is_home():
        return
    op.execute("ALTER TABLE saga_dead_letter RENAME COLUMN door TO source")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER INDEX IF EXISTS {_OLD_INDEX} RENAME TO {_NEW_INDEX}")
        return
    op.drop_index(_OLD_INDEX, "saga_dead_letter", if_exists=True)
    create_index(_NEW_INDEX, "saga_dead_letter", ["source", "id"])
