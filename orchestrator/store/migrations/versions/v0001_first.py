"""The first tables: sagas, steps, locks, outbox, dead letters."""

import sqlalchemy as sa
from alembic import op

from orchestrator.store.core.columns import UtcTime
from orchestrator.store.migrations import is_home

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = UtcTime(timezone=True)
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table, or only those for steps in a remote database."""
    if is_home():
        _create_home()
    _create()


def _create_home() -> None:
    op.create_table(
        "saga",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("orchestrator", sa.String(length=200), nullable=False),
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("event_type", sa.String(length=200), nullable=False),
        sa.Column("event_version", sa.Integer(), nullable=False),
        sa.Column("content_digest", sa.String(length=64), nullable=False),
        sa.Column("definition_digest", sa.String(length=64), nullable=True),
        sa.Column("ordering_key", sa.Text(), nullable=True),
        sa.Column("lock_keys", sa.Text(), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("error_code", sa.String(length=200), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("pivot_step", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("outcome_event_id", sa.String(length=128), nullable=True),
        sa.Column("owner_workflow_id", sa.Text(), nullable=True),
        sa.Column("owner_first_run_id", sa.Text(), nullable=True),
        sa.Column("drives", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("next_at", _TIME, nullable=True),
        sa.Column("progressed_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("stuck_step", sa.Integer(), nullable=True),
        sa.Column("stuck_error", sa.Text(), nullable=True),
        sa.Column("stuck_since", _TIME, nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.Column("purged_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saga")),
        sa.UniqueConstraint("orchestrator", "event_id", name=op.f("uq_saga_orchestrator_event_id")),
    )
    op.create_index(op.f("ix_saga_created_at"), "saga", ["created_at"], unique=False)
    op.create_index(op.f("ix_saga_event_id"), "saga", ["event_id"], unique=False)
    op.create_index(
        "ix_saga_unfinished",
        "saga",
        ["progressed_at"],
        unique=False,
        postgresql_where=sa.text("phase IN ('forward', 'undoing')"),
        sqlite_where=sa.text("phase IN ('forward', 'undoing')"),
    )
    op.create_table(
        "saga_dead_letter",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("door", sa.String(length=200), nullable=False),
        sa.Column("origin_workflow_id", sa.Text(), nullable=False),
        sa.Column("origin_run_id", sa.Text(), nullable=False),
        sa.Column("origin_position", sa.Integer(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("settled_at", _TIME, nullable=True),
        sa.Column("settled_as", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saga_dead_letter")),
        sa.UniqueConstraint(
            "origin_workflow_id", "origin_run_id", "origin_position", name="uq_saga_dead_letter_origin"
        ),
    )
    op.create_table(
        "saga_lock",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("ticket", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("saga_id", sa.Uuid(), nullable=True),
        sa.Column("next_ticket", _NUMBER, nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("key", "ticket", name=op.f("pk_saga_lock")),
    )
    op.create_index(op.f("ix_saga_lock_saga_id"), "saga_lock", ["saga_id"], unique=False)


def _create() -> None:
    op.create_table(
        "saga_meta",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("temporal_namespace", sa.Text(), nullable=True),
        sa.Column("temporal_cluster_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saga_meta")),
    )
    op.create_table(
        "saga_outbox",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(length=128), nullable=False),
        sa.Column("saga_id", sa.Uuid(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("ordering_key", sa.Text(), nullable=True),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("sent_at", _TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saga_outbox")),
        sa.UniqueConstraint("event_id", name=op.f("uq_saga_outbox_event_id")),
    )
    op.create_index(
        "ix_saga_outbox_unsent",
        "saga_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("sent_at IS NULL"),
        sqlite_where=sa.text("sent_at IS NULL"),
    )
    op.create_table(
        "saga_step",
        sa.Column("saga_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("operation", sa.String(length=200), nullable=False),
        sa.Column("database", sa.String(length=64), server_default=sa.text("'home'"), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("irreversible", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("attempt_token", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("undo_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("undo_error", sa.Text(), nullable=True),
        sa.Column("skipped_by", sa.Text(), nullable=True),
        sa.Column("skip_reason", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("done_at", _TIME, nullable=True),
        sa.Column("undone_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("saga_id", "number", name=op.f("pk_saga_step")),
    )


def downgrade() -> None:
    """Drop every table with all of its rows."""
    _drop()
    if is_home():
        _drop_home()


def _drop() -> None:
    op.drop_table("saga_step")
    op.drop_index(
        "ix_saga_outbox_unsent",
        table_name="saga_outbox",
        postgresql_where=sa.text("sent_at IS NULL"),
        sqlite_where=sa.text("sent_at IS NULL"),
    )
    op.drop_table("saga_outbox")
    op.drop_table("saga_meta")


def _drop_home() -> None:
    op.drop_index(op.f("ix_saga_lock_saga_id"), table_name="saga_lock")
    op.drop_table("saga_lock")
    op.drop_table("saga_dead_letter")
    op.drop_index(
        "ix_saga_unfinished",
        table_name="saga",
        postgresql_where=sa.text("phase IN ('forward', 'undoing')"),
        sqlite_where=sa.text("phase IN ('forward', 'undoing')"),
    )
    op.drop_index(op.f("ix_saga_event_id"), table_name="saga")
    op.drop_index(op.f("ix_saga_created_at"), table_name="saga")
    op.drop_table("saga")
