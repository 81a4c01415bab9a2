"""SmartExpense's tables, version by version, by Alembic: the worker brings its database up to the newest."""
