"""The databases of an application: home, and the remote databases of domains that have their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import Unreachable
from orchestrator.operation import HOME
from orchestrator.store.core.database import POOL_SIZE, Database

SETTING = "ORCHESTRATOR_DATABASES"


class DatabaseMissing(Unreachable):
    """A step is in a database whose address is not configured in this process."""


@dataclass(frozen=True, slots=True)
class Databases:
    """The home database and the remote databases by name, opened once per process.

    Args:
        home: the database that holds the sagas.
        others: the remote databases, which hold the effects of steps and the fence rows of those steps.
    """

    home: Database
    others: Mapping[str, Database] = field(default_factory=dict[str, Database])

    @classmethod
    def at(cls, home: str, others: Mapping[str, str], *, pool_size: int = POOL_SIZE) -> Databases:
        """Create the databases for these URLs, each with at most `pool_size` connections; nothing is connected yet.

        Raises:
            Unreachable: a URL does not have the right form.
        """
        remote = {name: Database(url, pool_size=pool_size, setting=SETTING) for name, url in others.items()}
        return cls(Database(home, pool_size=pool_size), remote)

    @classmethod
    def of(cls, database: Database | Databases) -> Databases:
        """Return the databases unchanged, or wrap a single database as home."""
        return cls(database) if isinstance(database, Database) else database

    def __iter__(self) -> Iterator[tuple[str, Database]]:
        """Iterate over names and databases, home first."""
        yield HOME, self.home
        yield from self.others.items()

    def named(self, name: str) -> Database:
        """Return the database with this name.

        Raises:
            DatabaseMissing: its address is not configured in this process.
        """
        if name == HOME:
            return self.home
        if name not in self.others:
            raise DatabaseMissing(
                f"A step is in the database {name!r}, whose address is not configured here. Set it, as in "
                f'{SETTING}=\'{{"{name}": "postgresql://user:password@host/name"}}\''
            )
        return self.others[name]

    async def check(self) -> None:
        """Check every database.

        Raises:
            Unreachable: a database cannot be used; the message says which, why, and what to do.
        """
        for _, database in self:
            await database.check()

    async def close(self) -> None:
        """Close every connection."""
        for _, database in self:
            await database.close()
