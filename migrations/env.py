"""Alembic's environment: runs on the connection that the engine's `upgrade_application` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
