"""Adds categories, months and their records, with foreign keys from records to accounts and categories."""

import sqlalchemy as sa
from alembic import op

from activities.columns import ExactDecimal
from orchestrator.store.core.columns import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LIMIT = 10**15
_CEILING = _LIMIT * 1_000
_TIME = UtcTime(timezone=True)
_IS_SYSTEM = sa.text("is_system")

# Names and conditions of the existing constraints. SQLite recreates a table to add a constraint, and Alembic does not
# read the existing ones.
_ACCOUNT = (
    ("account_state_known", "state IN ('opening', 'open')"),
    ("account_balance_bounded", f"balance BETWEEN -{_CEILING} AND {_CEILING}"),
    ("account_opening_balance_bounded", f"opening_balance BETWEEN -{_LIMIT} AND {_LIMIT}"),
    ("account_overdraft_limit_bounded", f"overdraft_limit BETWEEN 0 AND {_LIMIT}"),
)
_RECORD = (
    (
        "activity_record_account_created_whole",
        "kind <> 'account_created' OR (account_id IS NOT NULL AND amount IS NOT NULL AND currency IS NOT NULL)",
    ),
    (
        "activity_record_money_transfer_whole",
        "kind <> 'money_transfer' OR (from_account_id IS NOT NULL AND to_account_id IS NOT NULL"
        " AND amount_out > 0 AND currency_out IS NOT NULL AND amount_in > 0 AND currency_in IS NOT NULL)",
    ),
    ("activity_record_amount_bounded", f"amount BETWEEN -{_LIMIT} AND {_LIMIT}"),
    ("activity_record_amount_out_bounded", f"amount_out <= {_LIMIT}"),
    ("activity_record_amount_in_bounded", f"amount_in <= {_LIMIT}"),
)
_NEW_RECORD = (
    (
        "activity_record_category_value_change_whole",
        "kind <> 'category_value_change' OR (account_id IS NOT NULL AND category_id IS NOT NULL AND amount >= 0"
        " AND currency IS NOT NULL AND converted >= 0 AND converted_currency IS NOT NULL"
        " AND budget_type IN ('income', 'expense') AND reset_epoch >= 0 AND currency_epoch >= 0"
        " AND note IS NOT NULL)",
    ),
    (
        "activity_record_categories_reset_whole",
        "kind <> 'categories_reset' OR budget_type IN ('income', 'expense')",
    ),
    (
        "activity_record_currency_change_whole",
        "kind <> 'currency_change' OR (currency_from <> currency_to AND rate IS NOT NULL AND currency_epoch > 0)",
    ),
    (
        "activity_record_kind_known",
        "kind IN ('account_created', 'money_transfer', 'category_value_change', 'categories_reset', 'currency_change')",
    ),
    ("activity_record_removing_removable", "removing IS NULL OR kind = 'category_value_change'"),
    ("activity_record_converted_bounded", f"converted <= {_LIMIT}"),
)


def upgrade() -> None:
    """Create the new tables, and add columns and constraints to the existing ones."""
    if sa.inspect(op.get_bind()).has_table("category"):
        return  # The tables were created from the models.
    with op.batch_alter_table("account", table_args=_checks(_ACCOUNT)) as account:
        account.create_check_constraint("account_position_positive", "position > 0")
    op.create_index("uq_account_user_id_id", "account", ["user_id", "id"], unique=True)
    with op.batch_alter_table("exchange_rate") as exchange_rate:
        exchange_rate.create_check_constraint("exchange_rate_of_two_currencies", "base <> quote")
    _create_categories()
    _create_months()
    _widen_records()


def _create_categories() -> None:
    op.create_table(
        "category",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("budget_type", sa.String(7), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("reset_epoch", sa.Integer, nullable=False),
        sa.Column("counted_from", sa.Integer, nullable=False),
        sa.Column("currency_epoch", sa.Integer, nullable=False),
        sa.Column("icon", sa.String(64), nullable=False),
        sa.Column("colour", sa.String(7), nullable=False),
        sa.Column("is_system", sa.Boolean, nullable=False),
        sa.Column("reset_at", _TIME, nullable=True),
        sa.CheckConstraint("budget_type IN ('income', 'expense')", name="category_budget_type_known"),
        sa.CheckConstraint(f"value BETWEEN -{_CEILING} AND {_CEILING}", name="category_value_bounded"),
        sa.CheckConstraint("0 <= counted_from AND counted_from <= reset_epoch", name="category_reset_epoch_in_order"),
        sa.CheckConstraint("currency_epoch >= 0", name="category_currency_epoch_not_negative"),
    )
    op.create_index("uq_category_user_id_id", "category", ["user_id", "id"], unique=True)
    op.create_index(
        "uq_category_system",
        "category",
        ["user_id", "budget_type"],
        unique=True,
        postgresql_where=_IS_SYSTEM,
        sqlite_where=_IS_SYSTEM,
    )
    op.create_table(
        "category_conversion",
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("currency_epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("currency_from", sa.String(3), nullable=False),
        sa.Column("currency_to", sa.String(3), nullable=False),
        sa.Column("rate", ExactDecimal(), nullable=False),
        sa.CheckConstraint("currency_epoch > 0", name="category_conversion_epoch_positive"),
    )


def _create_months() -> None:
    op.create_table(
        "month_snapshot",
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("income", sa.BigInteger, nullable=False),
        sa.Column("expense", sa.BigInteger, nullable=False),
        sa.Column("month_balance", sa.BigInteger, nullable=False),
        sa.Column("full_balance", sa.BigInteger, nullable=False),
        sa.Column("taken_at", _TIME, nullable=False),
        sa.CheckConstraint("month_balance = income - expense", name="month_snapshot_balanced"),
        sa.CheckConstraint("length(month) = 7", name="month_snapshot_month_whole"),
    )
    op.create_table(
        "month_category",
        sa.Column("user_id", sa.String(64), primary_key=True),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("category_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("budget_type", sa.String(7), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id", "month"], ["month_snapshot.user_id", "month_snapshot.month"], name="fk_month_category_month"
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "category_id"], ["category.user_id", "category.id"], name="fk_month_category_category_id"
        ),
        sa.CheckConstraint("budget_type IN ('income', 'expense')", name="month_category_budget_type_known"),
    )


def _widen_records() -> None:
    with op.batch_alter_table("activity_record", table_args=_checks(_RECORD)) as record:
        for column in (
            sa.Column("category_id", sa.String(64), nullable=True),
            sa.Column("converted", sa.BigInteger, nullable=True),
            sa.Column("converted_currency", sa.String(3), nullable=True),
            sa.Column("budget_type", sa.String(7), nullable=True),
            sa.Column("note", sa.String(500), nullable=True),
            sa.Column("reset_epoch", sa.Integer, nullable=True),
            sa.Column("currency_epoch", sa.Integer, nullable=True),
            sa.Column("currency_from", sa.String(3), nullable=True),
            sa.Column("currency_to", sa.String(3), nullable=True),
            sa.Column("removing", sa.String(128), nullable=True),
        ):
            record.add_column(column)
        for name, condition in _NEW_RECORD:
            record.create_check_constraint(name, condition)
        for column_name, table in (
            ("account_id", "account"),
            ("from_account_id", "account"),
            ("to_account_id", "account"),
            ("category_id", "category"),
        ):
            record.create_foreign_key(
                f"fk_activity_record_{column_name}", table, ["user_id", column_name], ["user_id", "id"]
            )


def _checks(named: tuple[tuple[str, str], ...]) -> tuple[sa.CheckConstraint, ...]:
    return tuple(sa.CheckConstraint(condition, name=name) for name, condition in named)
