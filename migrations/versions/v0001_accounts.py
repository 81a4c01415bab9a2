"""Creates the tables for accounts, records, settings and rates, as in the first release."""

import sqlalchemy as sa
from alembic import op

from activities.columns import ExactDecimal
from orchestrator.store.core.columns import UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LIMIT = 10**15
_CEILING = _LIMIT * 1_000
_TIME = UtcTime(timezone=True)


def upgrade() -> None:
    """Create the tables, unless the first release has created them from its models without recording a version."""
    if sa.inspect(op.get_bind()).has_table("account"):
        return
    op.create_table(
        "account",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("opening_balance", sa.BigInteger, nullable=False),
        sa.Column("overdraft_limit", sa.BigInteger, nullable=False),
        sa.Column("icon", sa.String(64), nullable=False),
        sa.Column("colour", sa.String(7), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("state", sa.String(7), nullable=False),
        sa.Column("opened_at", _TIME, nullable=True),
        sa.CheckConstraint("state IN ('opening', 'open')", name="account_state_known"),
        sa.CheckConstraint(f"balance BETWEEN -{_CEILING} AND {_CEILING}", name="account_balance_bounded"),
        sa.CheckConstraint(f"opening_balance BETWEEN -{_LIMIT} AND {_LIMIT}", name="account_opening_balance_bounded"),
        sa.CheckConstraint(f"overdraft_limit BETWEEN 0 AND {_LIMIT}", name="account_overdraft_limit_bounded"),
    )
    op.create_index("ix_account_user_id", "account", ["user_id"])
    op.create_table(
        "activity_record",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(64), nullable=True),
        sa.Column("amount", sa.BigInteger, nullable=True),
        sa.Column("currency", sa.String(3), nullable=True),
        sa.Column("from_account_id", sa.String(64), nullable=True),
        sa.Column("to_account_id", sa.String(64), nullable=True),
        sa.Column("amount_out", sa.BigInteger, nullable=True),
        sa.Column("currency_out", sa.String(3), nullable=True),
        sa.Column("amount_in", sa.BigInteger, nullable=True),
        sa.Column("currency_in", sa.String(3), nullable=True),
        sa.Column("rate", ExactDecimal(), nullable=True),
        sa.CheckConstraint(
            "kind <> 'account_created' OR (account_id IS NOT NULL AND amount IS NOT NULL AND currency IS NOT NULL)",
            name="activity_record_account_created_whole",
        ),
        sa.CheckConstraint(
            "kind <> 'money_transfer' OR (from_account_id IS NOT NULL AND to_account_id IS NOT NULL"
            " AND amount_out > 0 AND currency_out IS NOT NULL AND amount_in > 0 AND currency_in IS NOT NULL)",
            name="activity_record_money_transfer_whole",
        ),
        sa.CheckConstraint(f"amount BETWEEN -{_LIMIT} AND {_LIMIT}", name="activity_record_amount_bounded"),
        sa.CheckConstraint(f"amount_out <= {_LIMIT}", name="activity_record_amount_out_bounded"),
        sa.CheckConstraint(f"amount_in <= {_LIMIT}", name="activity_record_amount_in_bounded"),
    )
    op.create_index("ix_activity_record_user_id_occurred_at", "activity_record", ["user_id", "occurred_at"])
    op.create_table(
        "user_metadata",
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("display_currency", sa.String(3), nullable=True),
        sa.Column("language", sa.String(16), nullable=True),
        sa.Column("last_reset_month", sa.String(7), nullable=True),
        sa.Column("account_count", sa.Integer, nullable=False),
        sa.CheckConstraint("account_count >= 0", name="user_metadata_account_count_not_negative"),
        sa.CheckConstraint(
            "account_count > 0 OR display_currency IS NOT NULL OR language IS NOT NULL OR last_reset_month IS NOT NULL",
            name="user_metadata_says_something",
        ),
    )
    op.create_table(
        "exchange_rate",
        sa.Column("base", sa.String(3), primary_key=True),
        sa.Column("quote", sa.String(3), primary_key=True),
        sa.Column("rate", ExactDecimal(), nullable=False),
        sa.Column("as_of", sa.Date, nullable=False),
    )
