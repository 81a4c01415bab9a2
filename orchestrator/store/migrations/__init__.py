"""Migrations of the engine's tables, by Alembic; `orchestrator.store.migrate` runs them.

One line of revisions for every database. Where it is not home, a revision leaves out what only home has.
"""

from alembic import context

HOME_CONFIGURED = "is_home"
"""Attribute of Alembic's configuration: whether the database is home, as it is unless told."""


def is_home() -> bool:
    """Whether the database that is migrated just now holds sagas."""
    return bool(context.config.attributes.get(HOME_CONFIGURED, True))
