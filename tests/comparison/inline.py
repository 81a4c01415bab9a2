"""SQLite without a thread: a statement runs where it is awaited, which triples the number of events per second.

aiosqlite hands each statement to a thread, and most of a short event's time is spent on that. Here nothing else needs
to run meanwhile, because the application's side decides between transactions how sagas interleave.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from typing import Any, cast

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.store.core.sqlite import SteadyConnection


class _Queue:
    """Replaces aiosqlite's queue, into which SQLAlchemy puts work, too."""

    def put_nowait(self, work: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        """Run the work at once."""
        future, function = work
        result = function()
        if future is not None:
            future.set_result(result)


class InlineConnection(SteadyConnection):
    """An aiosqlite connection whose thread is never started."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._tx = cast(Any, _Queue())

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def __await__(self) -> Generator[Any, None, "InlineConnection"]:
        if self._connection is None:
            self._connection = self._connector()
        return self
        yield  # a generator that waits for nothing

    async def close(self) -> None:
        """Roll back an open transaction, then close."""
        self.stop()

    def stop(self) -> None:
        """Roll back an open transaction, then close."""
        self._running = False
        if self._connection is not None:
            self._connection.rollback()
            self._connection.close()
            self._connection = None


def connect_inline(database: str, **options: Any) -> InlineConnection:
    """Replaces the engine's own `connect_steadily`."""
    return InlineConnection(lambda: sqlite3.connect(database, **options))


def without_threads(engine: AsyncEngine) -> None:
    """Make an engine open its connections without threads. Call it before the first one is opened."""

    def connecting(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        options["async_creator_fn"] = connect_inline

    event.listen(engine.sync_engine, "do_connect", connecting)
