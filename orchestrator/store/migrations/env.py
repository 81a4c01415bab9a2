"""Alembic's environment: runs the migrations in the transaction of the connection that `migrate` passes in."""

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
