"""SmartExpense's Alembic migrations, which a starting worker applies."""
