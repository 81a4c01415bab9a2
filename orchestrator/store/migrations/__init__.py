"""Migrations of the engine's tables, by Alembic; `orchestrator.store.migrate` runs them."""
