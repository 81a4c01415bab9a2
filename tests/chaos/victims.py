"""The parts that faults hit: the workers under their supervisor, Temporal's server, and PostgreSQL."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

from orchestrator.devserver.child import Child
from orchestrator.devserver.ports import free_port
from orchestrator.devserver.server import NAMESPACE, EmbeddedServer
from orchestrator.errors import OrchestratorError
from tests.chaos.accounts import JOURNAL
from tests.chaos.pair import PostgresPair
from tests.chaos.plan import Act, Fault, Target
from tests.chaos.processes import children, kill, resume, suspend
from tests.chaos.worker import CLOCKS, LATE
from tests.mutants.sandbox import ROOT

_DRAIN = 30.0
_READY = b"Worker ready"
_TRIES = 10
_RETRY_INTERVAL = 0.5


class Victims:
    """All parts that run. Faults hit each part one at a time.

    Args:
        folder: contains all state and logs.
        random: chooses among several processes.
        root: the project whose engine the workers run.
        processes: how many worker processes run.
        is_postgresql: whether the home database is PostgreSQL or SQLite.
    """

    def __init__(self, folder: Path, random: Random, *, root: Path = ROOT, processes: int, is_postgresql: bool) -> None:
        self.folder = folder
        self.hits: Counter[tuple[Act, Target]] = Counter()
        self.server = EmbeddedServer(folder / "temporal", port=free_port(0), headless=True)
        self.postgres = PostgresPair(folder / "postgres") if is_postgresql else None
        self._random = random
        self._root = root
        self._processes = processes
        self._supervisor: Child | None = None
        self._starts = 0
        self._busy = {part: asyncio.Lock() for part in ("workers", "temporal", "postgresql")}

    @property
    def late(self) -> Path:
        """The file in which the workers count attempts that came too late."""
        return self.folder / "late"

    @property
    def clocks(self) -> Path:
        """The file in which each worker process writes how its clock is wrong."""
        return self.folder / "clocks"

    @property
    def database_url(self) -> str:
        """The URL of the home database."""
        return self.postgres.url if self.postgres else f"sqlite:///{self.folder / 'bank.db'}"

    @property
    def journal_url(self) -> str:
        """The URL of the other database: always SQLite, so that a PostgreSQL run uses both kinds."""
        return f"sqlite:///{self.folder / 'journal.db'}"

    def environment(self) -> Mapping[str, str]:
        """The environment of workers and clients."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "ORCHESTRATOR_"))
        }
        return inherited | {
            "TEMPORAL_ADDRESS": self.server.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "ORCHESTRATOR_STATE_DIR": str(self.folder),
            "ORCHESTRATOR_DATABASE_URL": self.database_url,
            "ORCHESTRATOR_DATABASES": json.dumps({JOURNAL: self.journal_url}),
            "ORCHESTRATOR_RECOVERY_INTERVAL": "3",
            "ORCHESTRATOR_RECOVERY_GRACE": "4",
            "ORCHESTRATOR_LOG_LEVEL": "ERROR",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(self._root),
            "PYTHONDONTWRITEBYTECODE": "1",
            LATE: str(self.late),
            CLOCKS: str(self.clocks),
        }

    async def start(self) -> None:
        """Start the databases and the server, but no workers."""
        if self.postgres:
            await self.postgres.start()
        await self.server.start()

    async def close(self) -> None:
        """Stop everything."""
        if self._supervisor is not None:
            await self._supervisor.stop(seconds=_DRAIN)
        await self.server.stop()
        if self.postgres:
            await self.postgres.close()

    def start_workers(self) -> None:
        """Start the supervisor, which starts the workers."""
        self._starts += 1
        command = [sys.executable, "-m", "tests.chaos.worker", "--processes", str(self._processes)]
        log = self.folder / f"workers-{self._starts}.log"
        self._supervisor = Child.start(command, log=log, env=self.environment(), cwd=self._root)

    async def wait_for_workers(self) -> bool:
        """Wait until each worker polls; return False if they have ended."""
        assert self._supervisor is not None
        log = self._supervisor.log
        return await self._supervisor.wait_until(lambda: log.read_bytes().count(_READY) >= self._processes)

    async def suffer(self, fault: Fault) -> None:
        """Cause a fault and repair what it broke. A fault that finds nothing to hit is not counted."""
        match fault.target:
            case Target.WORKER | Target.SUPERVISOR:
                async with self._busy["workers"]:
                    hit = await self._workers(fault)
            case Target.TEMPORAL:
                async with self._busy["temporal"]:
                    hit = await self._temporal(fault)
            case Target.POSTGRESQL | Target.BACKEND:
                async with self._busy["postgresql"]:
                    hit = await self._postgresql(fault)
            case Target.SAGA | Target.PARTITION:
                raise AssertionError("a saga or partition is not a process")
        self.hits[fault.act, fault.target] += hit

    async def keep_workers(self) -> None:
        """Restart ended workers until cancelled; a worker that cannot reach the server when it starts ends at once."""
        while True:
            await asyncio.sleep(_RETRY_INTERVAL)
            if not self._busy["workers"].locked():
                await self.heal()

    async def heal(self) -> None:
        """Start the workers if they have ended."""
        assert self._supervisor is not None
        if self._supervisor.has_ended:
            self.start_workers()

    async def _workers(self, fault: Fault) -> bool:
        assert self._supervisor is not None
        if fault.target is Target.SUPERVISOR:
            await self._supervisor.kill()
            self.start_workers()
            return True
        living = children(self._supervisor.pid)
        if not living:
            return False
        victim = self._random.choice(living).pid
        if fault.act is Act.KILL:
            kill(victim)
        else:
            await _suspend_for(victim, fault.seconds)
        return True

    async def _temporal(self, fault: Fault) -> bool:
        if fault.act is Act.STOP:
            await _suspend_for(self.server.pid, fault.seconds)
            return True
        address = self.server.address
        kill(self.server.pid)
        await self.server.wait_ended()
        await self.server.stop()
        for tries_left in reversed(range(_TRIES)):
            try:
                await self.server.start()
            except OrchestratorError:
                if not tries_left:
                    raise
            else:
                if self.server.address == address:
                    break
                # Its port has just been taken, perhaps by one end of an outgoing connection.
                await self.server.stop()
            await asyncio.sleep(_RETRY_INTERVAL)
        assert self.server.address == address, "another process keeps the server's port"
        return True

    async def _postgresql(self, fault: Fault) -> bool:
        assert self.postgres is not None
        if fault.target is Target.BACKEND:
            backends = self.postgres.backends()
            if not backends:
                return False
            await _suspend_for(self._random.choice(backends).pid, fault.seconds)
        elif fault.act is Act.STOP:
            await _suspend_for(self.postgres.pid, fault.seconds)
        elif fault.act is Act.FAIL_OVER:
            await self.postgres.fail_over()
        else:
            await self.postgres.kill()
            await self.postgres.revive()
        return True


async def _suspend_for(pid: int, seconds: float) -> None:
    suspend(pid)
    try:
        await asyncio.sleep(seconds)
    finally:
        resume(pid)
