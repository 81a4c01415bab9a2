"""The engine's tables, in their own metadata, which keeps them apart from the application's tables.

JSON is stored as text, exactly as it was written, so that no database can reformat a recorded value. The migrations
create the same tables; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
)

from orchestrator.store.core.columns import UtcTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

NOW = func.now()
IS_UNFINISHED = text("saga.phase IN ('forward', 'undoing')")
"""The literal condition of the index, without parameters: SQLite uses a partial index only if it finds it unchanged."""
IS_UNDONE = text("saga.phase IN ('failed', 'cancelled')")
_STUCK = "stuck_step IS NOT NULL AND phase IN ('forward', 'undoing')"
_UNDONE = "phase IN ('failed', 'cancelled')"

_Number = BigInteger().with_variant(Integer, "sqlite")
_Time = UtcTime()

saga_meta = Table(
    "saga_meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("temporal_namespace", Text),
    Column("temporal_cluster_id", Text),
    Column("swept_until", _Time),
)
"""A single row that records which Temporal namespace and cluster this database belongs to.

`swept_until`: recovery has already searched the executions that closed before this time for undelivered messages.
"""

saga = Table(
    "saga",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("orchestrator", String(200), nullable=False),
    Column("event_id", String(128), nullable=False),
    Column("envelope", Text, nullable=False),
    Column("event_type", String(200), nullable=False),
    Column("event_version", Integer, nullable=False),
    Column("content_digest", String(64), nullable=False),
    Column("definition_digest", String(64)),
    Column("ordering_key", Text),
    Column("lock_keys", Text),
    Column("phase", String(16), nullable=False),
    Column("reason", String(16)),
    Column("error_code", String(200)),
    Column("message", Text),
    Column("details", Text),
    Column("ended_by", Text),
    Column("pivot_step", Integer),
    Column("outcome", Text),
    Column("outcome_event_id", String(128)),
    Column("owner_workflow_id", Text),
    Column("owner_first_run_id", Text),
    Column("drives", Integer, nullable=False, server_default=text("1")),
    Column("next_at", _Time),
    Column("progressed_at", _Time, nullable=False, server_default=NOW),
    Column("stuck_step", Integer),
    Column("stuck_error", Text),
    Column("stuck_since", _Time),
    Column("created_at", _Time, nullable=False, server_default=NOW),
    Column("finished_at", _Time),
    Column("purged_at", _Time),
    Index(None, "event_id"),
    Index(None, "created_at"),
    Index(None, "orchestrator", "created_at"),
    Index("ix_saga_stuck", "created_at", postgresql_where=text(_STUCK), sqlite_where=text(_STUCK)),
    Index("ix_saga_undone", "phase", "created_at", postgresql_where=text(_UNDONE), sqlite_where=text(_UNDONE)),
    Index(
        "ix_saga_undone_orchestrator",
        "orchestrator",
        "phase",
        "created_at",
        postgresql_where=text(_UNDONE),
        sqlite_where=text(_UNDONE),
    ),
    Index(
        "ix_saga_unfinished",
        "progressed_at",
        postgresql_where=text("phase IN ('forward', 'undoing')"),
        sqlite_where=text("phase IN ('forward', 'undoing')"),
    ),
    Index(
        "ix_saga_unpurged",
        "finished_at",
        postgresql_where=text("finished_at IS NOT NULL AND purged_at IS NULL"),
        sqlite_where=text("finished_at IS NOT NULL AND purged_at IS NULL"),
    ),
)
"""The sagas, one row each, with the state of their state machine. `reason` is the phase that an undo will end in.

The id is derived from the orchestrator and the event id, so the primary key alone keeps that pair unique. A second
unique constraint on the pair made concurrent openings fail at times, because ON CONFLICT handles only one index and the
other may be violated first.
"""

saga_step = Table(
    "saga_step",
    metadata,
    Column("saga_id", Uuid, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("operation", String(200), nullable=False),
    Column("database", String(64), nullable=False, server_default=text("'home'")),
    Column("arguments", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("irreversible", Boolean, nullable=False, server_default=false()),
    Column("attempt_token", Uuid, nullable=False),
    Column("state", String(16), nullable=False),
    Column("result", Text),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("undo_attempts", Integer, nullable=False, server_default=text("0")),
    Column("undo_error", Text),
    Column("skipped_by", Text),
    Column("skip_reason", Text),
    Column("idempotency_key", String(200)),
    Column("created_at", _Time, nullable=False, server_default=NOW),
    Column("attempted_at", _Time),
    Column("done_at", _Time),
    Column("undone_at", _Time),
    Index(
        "ix_saga_step_outside",
        "saga_id",
        "number",
        postgresql_where=text("kind = 'external' AND attempted_at IS NOT NULL"),
        sqlite_where=text("kind = 'external' AND attempted_at IS NOT NULL"),
    ),
)
"""The fence: one row per step, written in the operation's own transaction.

It has no foreign key to `saga`, because a step's row may be in a remote database. `attempt_token` identifies the
attempt that inserted the row, so that on every database an attempt can see whether the row is its own. `attempted_at`
is the time at which the last attempt of an external step began; for a wait, the time at which it ends at the latest.
"""

saga_lock = Table(
    "saga_lock",
    metadata,
    Column("key", Text, primary_key=True),
    Column("ticket", _Number, primary_key=True, autoincrement=False),
    Column("saga_id", Uuid),
    Column("next_ticket", _Number),
    Column("created_at", _Time, nullable=False, server_default=NOW),
    Index(None, "saga_id"),
)
"""The lock queues: a head per key (ticket 0, with the next ticket) and a row per ticket, the lowest of which holds."""

saga_outbox = Table(
    "saga_outbox",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("event_id", String(128), nullable=False, unique=True),
    Column("saga_id", Uuid, nullable=False),
    Column("target", Text),
    Column("ordering_key", Text),
    Column("envelope", Text, nullable=False),
    Column("created_at", _Time, nullable=False, server_default=NOW),
    Column("sent_at", _Time),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("next_at", _Time),
    Index(
        "ix_saga_outbox_unsent",
        "id",
        postgresql_where=text("sent_at IS NULL"),
        sqlite_where=text("sent_at IS NULL"),
    ),
    Index(
        "ix_saga_outbox_unsent_key",
        "ordering_key",
        "id",
        postgresql_where=text("sent_at IS NULL AND ordering_key IS NOT NULL"),
        sqlite_where=text("sent_at IS NULL AND ordering_key IS NOT NULL"),
    ),
    Index(None, "created_at"),
)
"""The outbox: events to be sent, written in the same transaction as the change that they report.

Unsent rows are found by `sent_at IS NULL` and not by "id greater than", because ids do not commit in order. `next_at`:
no relay takes the row before this time, because another relay has it or because the next attempt is due only then.
"""

saga_dead_letter = Table(
    "saga_dead_letter",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("source", String(200), nullable=False),
    Column("origin_workflow_id", Text, nullable=False),
    Column("origin_run_id", Text, nullable=False),
    Column("origin_position", Integer, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("code", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", _Time, nullable=False, server_default=NOW),
    Column("settled_at", _Time),
    Column("settled_as", Text),
    Column("event_id", String(128)),
    UniqueConstraint("origin_workflow_id", "origin_run_id", "origin_position", name="uq_saga_dead_letter_origin"),
    Index(None, "event_id", "id"),
    Index(None, "code", "id"),
    Index(None, "source", "id"),
    Index(None, "created_at"),
    Index(
        "ix_saga_dead_letter_open",
        "id",
        postgresql_where=text("settled_at IS NULL"),
        sqlite_where=text("settled_at IS NULL"),
    ),
    Index(
        "ix_saga_dead_letter_settled",
        "settled_at",
        postgresql_where=text("settled_at IS NOT NULL"),
        sqlite_where=text("settled_at IS NOT NULL"),
    ),
)
"""The dead letters: messages that could not be read or routed, stored unchanged with their origin and the reason.

`event_id` is the event id that the message itself contains, or empty if it contains none. NULL means that an older
version of the engine wrote the row and the message has not been searched for its id yet.
"""
