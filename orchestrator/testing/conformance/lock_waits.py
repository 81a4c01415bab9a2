"""Which task waits for a lock. A database knows that somebody waits; a test needs to know that one driver does.

Each task has its record, which the tasks that it starts share: its connections to PostgreSQL, and how often it stands
in the queue of writers that SQLite has.
"""

from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import event, text

from orchestrator.store.core.database import POOL_SIZE, Database

R = TypeVar("R")

_USER = "orchestrator_used_by"
"""On a pooled connection: the record of the task that uses it."""
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(:pids) AND wait_event_type = 'Lock'")


@dataclass(slots=True)
class LockWaits:
    """The connections and the place in line of one task, and of those that it starts."""

    pids: set[int] = field(default_factory=set[int])
    """Process ids of PostgreSQL's backends that it uses right now."""
    queued: int = 0
    """How many of its transactions wait to be the one that writes (SQLite)."""


_current: ContextVar[LockWaits | None] = ContextVar("lock_waits", default=None)


async def recorded(waits: LockWaits, work: Coroutine[Any, Any, R]) -> R:
    """Await work, and record what it waits for. In a task that does nothing else."""
    _current.set(waits)
    return await work


class WatchedDatabase(Database):
    """A database that records which task uses a connection, or waits for its turn to write."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        super().__init__(url, pool_size=pool_size)
        if self.dialect == "postgresql":
            event.listen(self.engine.sync_engine, "checkout", _taken)
            event.listen(self.engine.sync_engine, "checkin", _given_back)

    @asynccontextmanager
    async def _write_lock(self) -> AsyncGenerator[None]:
        waits = _current.get() or LockWaits()
        turn = super()._write_lock()
        waits.queued += 1
        try:
            await turn.__aenter__()
        finally:
            waits.queued -= 1
        try:
            yield
        finally:
            await turn.__aexit__(None, None, None)

    async def has_waiting(self, waits: LockWaits) -> bool:
        """Whether this task, or one that it started, waits for a lock in this database right now."""
        if self.dialect == "sqlite":
            return waits.queued > 0
        if not waits.pids:
            return False
        async with self.reading() as connection:
            return bool(await connection.scalar(_WAITING, {"pids": list(waits.pids)}))


def _taken(connection: Any, record: Any, _proxy: Any) -> None:
    waits = _current.get()
    if waits is not None:
        pid: int = connection.driver_connection.get_server_pid()
        waits.pids.add(pid)
        record.info[_USER] = (waits, pid)


def _given_back(_connection: Any, record: Any) -> None:
    used: tuple[LockWaits, int] | None = record.info.pop(_USER, None)
    if used is not None:
        used[0].pids.discard(used[1])
