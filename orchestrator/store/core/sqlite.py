"""SQLite under asyncio: a statement ends before a cancel is heard, and a connection is closed with a rollback.

Cut off in the middle, a statement stays unfinished for as long as anybody holds the exception that cut it off, and with
it its transaction and SQLite's one write lock: the next writer failed after 30 s with "database is locked".
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any, cast

import aiosqlite


class SteadyConnection(aiosqlite.Connection):
    """aiosqlite's connection, made safe to cancel."""

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        running = asyncio.ensure_future(super()._execute(fn, *args, **kwargs))  # type: ignore[no-untyped-call]
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({running})
            if not running.cancelled():
                running.exception()  # heard, so that it is not told as never retrieved
            raise

    async def close(self) -> None:
        """Roll back what is open, then close."""
        with contextlib.suppress(sqlite3.Error, ValueError):
            await self.rollback()
        await super().close()

    def stop(self) -> Any:
        """Roll back what is open, then close and end the thread, without waiting."""
        queue = cast(Any, self._tx)  # pyright: ignore[reportUnknownMemberType]
        queue.put_nowait((None, self._roll_back))
        return super().stop()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error, ValueError):
            self._conn.rollback()


def connect_steadily(database: str, **options: Any) -> SteadyConnection:
    """What SQLAlchemy's aiosqlite dialect calls instead of `aiosqlite.connect`."""
    connection = SteadyConnection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    # As SQLAlchemy does: a forgotten connection keeps no process alive.
    connection._thread.daemon = True  # pyright: ignore[reportPrivateUsage]
    return connection
