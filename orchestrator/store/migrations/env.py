"""Alembic's environment: runs on the connection that `migrate` hands over, inside its transaction."""

from alembic import context

from orchestrator.store.core.schema import metadata
from orchestrator.store.migrations.migrate import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
