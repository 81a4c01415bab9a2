"""The databases of an application: home, and those of domains that have one of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import Unreachable
from orchestrator.operation import HOME
from orchestrator.store.core.database import POOL_SIZE, Database

SETTING = "ORCHESTRATOR_DATABASES"


class DatabaseMissing(Unreachable):
    """A step is in a database whose address this process was not given."""


@dataclass(frozen=True, slots=True)
class Databases:
    """Home and the others by name, opened once for a process.

    Args:
        home: holds the sagas.
        others: hold effects of steps, and the fence rows of those steps.
    """

    home: Database
    others: Mapping[str, Database] = field(default_factory=dict[str, Database])

    @classmethod
    def at(cls, home: str, others: Mapping[str, str], *, pool_size: int = POOL_SIZE) -> Databases:
        """Databases at these URLs, each with so many connections at most; nothing is connected yet.

        Raises:
            Unreachable: a URL is not of the right form.
        """
        domains = {name: Database(url, pool_size=pool_size, setting=SETTING) for name, url in others.items()}
        return cls(Database(home, pool_size=pool_size), domains)

    @classmethod
    def of(cls, given: Database | Databases) -> Databases:
        """What was given, a single database as home."""
        return cls(given) if isinstance(given, Database) else given

    def __iter__(self) -> Iterator[tuple[str, Database]]:
        """Names and databases, home first."""
        yield HOME, self.home
        yield from self.others.items()

    def named(self, name: str) -> Database:
        """One by name.

        Raises:
            DatabaseMissing: its address is not known here.
        """
        if name == HOME:
            return self.home
        if name not in self.others:
            raise DatabaseMissing(
                f"A step is in the database {name!r}, whose address is not known here. Set it, as in "
                f'{SETTING}=\'{{"{name}": "postgresql://user:password@host/name"}}\''
            )
        return self.others[name]

    async def check(self) -> None:
        """Make sure that each answers.

        Raises:
            Unreachable: one does not; the message says which and what to do.
        """
        for _, database in self:
            await database.check()

    async def close(self) -> None:
        """Close every connection."""
        for _, database in self:
            await database.close()
