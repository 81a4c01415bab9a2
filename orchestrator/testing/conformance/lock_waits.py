"""Records which asyncio task waits for a lock.

A database can say that a connection waits; a test needs to know that one particular driver does. Each task has a
record, shared by the tasks that it starts: its connections to PostgreSQL, and how many of its transactions are queued
for SQLite's write lock.
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
"""Key in a pooled connection's `info`: the record of the task that uses the connection, and its process id."""
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(:pids) AND wait_event_type = 'Lock'")


@dataclass(slots=True)
class LockWaits:
    """The connections and the queued transactions of one task, including the tasks that it starts."""

    pids: set[int] = field(default_factory=set[int])
    """Process ids of the PostgreSQL backends that the task is using."""
    queued: int = 0
    """How many of its transactions wait for SQLite's write lock."""


_current: ContextVar[LockWaits | None] = ContextVar("lock_waits", default=None)


async def with_recorded_waits(waits: LockWaits, work: Coroutine[Any, Any, R]) -> R:
    """Await work and record what it waits for. The task must do nothing else."""
    _current.set(waits)
    return await work


class WatchedDatabase(Database):
    """A database that records which task uses a connection or waits for the write lock."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        super().__init__(url, pool_size=pool_size)
        if self.dialect == "postgresql":
            event.listen(self.engine.sync_engine, "checkout", _on_checkout)
            event.listen(self.engine.sync_engine, "checkin", _on_checkin)

    @asynccontextmanager
    async def _write_lock(self) -> AsyncGenerator[None]:
        waits = _current.get() or LockWaits()
        lock = super()._write_lock()
        waits.queued += 1
        try:
            await lock.__aenter__()
        finally:
            waits.queued -= 1
        try:
            yield
        finally:
            await lock.__aexit__(None, None, None)

    async def has_waiting(self, waits: LockWaits) -> bool:
        """Whether the task, or one that it started, is waiting for a lock in this database."""
        if self.dialect == "sqlite":
            return waits.queued > 0
        if not waits.pids:
            return False
        async with self.reading() as connection:
            return bool(await connection.scalar(_WAITING, {"pids": list(waits.pids)}))


def _on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
    waits = _current.get()
    if waits is not None:
        pid: int = connection.driver_connection.get_server_pid()
        waits.pids.add(pid)
        record.info[_USER] = (waits, pid)


def _on_checkin(_connection: Any, record: Any) -> None:
    used: tuple[LockWaits, int] | None = record.info.pop(_USER, None)
    if used is not None:
        used[0].pids.discard(used[1])
