"""What an error of the database means."""

from sqlalchemy.exc import DBAPIError


def sqlstate(fault: DBAPIError) -> str | None:
    """PostgreSQL's five-character code of an error, if it has one."""
    return getattr(fault.orig, "sqlstate", None)
