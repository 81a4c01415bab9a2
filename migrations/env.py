"""Alembic's environment, which uses the connection that the engine's `upgrade_application` passes to it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
