"""Alembic's environment: runs on the connection that `migrate` hands over, inside its transaction."""

from alembic import context

from orchestrator.store.migrate import VERSION_TABLE
from orchestrator.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
