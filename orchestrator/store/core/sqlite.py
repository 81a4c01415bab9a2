"""SQLite under asyncio: a cancellation waits until the current statement ends, and closing a connection rolls back.

An interrupted statement stays unfinished for as long as anything references the exception that interrupted it. It keeps
its transaction open and holds SQLite's only write lock, so the next writer fails after 30 s: "database is locked".
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, cast

import aiosqlite


class SteadyConnection(aiosqlite.Connection):
    """An aiosqlite connection that is safe to cancel."""

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        running = asyncio.ensure_future(super()._execute(fn, *args, **kwargs))  # type: ignore[no-untyped-call]
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # retrieved, so that asyncio does not log it as never retrieved
            raise

    async def close(self) -> None:
        """Roll back the open transaction, then close the connection."""
        with contextlib.suppress(sqlite3.Error, ValueError):
            await self.rollback()
        await super().close()

    def stop(self) -> Any:
        """Roll back the open transaction, then close the connection and end its thread, without waiting."""
        queue = cast(Any, self._tx)  # pyright: ignore[reportUnknownMemberType]
        queue.put_nowait((None, self._roll_back))
        return super().stop()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error, ValueError):
            self._conn.rollback()


def connect_steadily(database: str, **options: Any) -> SteadyConnection:
    """Connect; SQLAlchemy's aiosqlite dialect calls this instead of `aiosqlite.connect`."""
    connection = SteadyConnection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    # A daemon thread, as in SQLAlchemy, so that a forgotten connection does not keep the process alive.
    connection._thread.daemon = True  # pyright: ignore[reportPrivateUsage]
    return connection
