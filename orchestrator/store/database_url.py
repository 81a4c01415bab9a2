"""A database's address: which forms of URL are understood."""

from typing import Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from orchestrator.errors import Unreachable

Dialect = Literal["postgresql", "sqlite"]


def parse_database_url(url: str, setting: str) -> URL:
    """Parse a database URL, and fill in the driver.

    Args:
        url: as it was set.
        setting: the environment variable that it comes from, for messages.

    Raises:
        Unreachable: the URL is not of a form that is supported.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as fault:
        raise Unreachable(
            f"{setting} is no database URL; the form is sqlite:///file.db or postgresql://user:password@host/name"
        ) from fault
    match parsed.get_backend_name():
        case "sqlite":
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+asyncpg")
        case other:
            raise Unreachable(f"{setting} names {other}; PostgreSQL and SQLite are supported")
