"""Runs the processes of the embedded mode: Temporal's development server, optionally a PostgreSQL, and workers."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from orchestrator.cli.embedded.script import GaveUp
from orchestrator.cli.embedded.show import Show, as_typed
from orchestrator.devserver.child import Child
from orchestrator.devserver.postgres import EmbeddedPostgres
from orchestrator.devserver.server import NAMESPACE, AlreadyRunning, EmbeddedServer
from orchestrator.settings import Settings
from orchestrator.worker.process.manager import DRAIN, READY_LINE

WORKER = (sys.executable, "-m", "orchestrator", "worker", "--no-supervisor")
"""The command that starts a worker of any project."""
_LOG = "worker-{}.log"
_READY_SECONDS = 180
"""Only a worker that hangs takes longer: one that fails ends by itself, even on a busy machine."""
_STOP_SECONDS = DRAIN.total_seconds() + 5


class WorkerFailed(GaveUp):
    """A worker did not start. The message ends with the last lines of its log.

    Attributes:
        log: the worker's output, for example its definition faults.
    """

    def __init__(self, worker: Child) -> None:
        self.log = (
            worker.log.read_text(errors="replace").rstrip() or f"It has written nothing to {as_typed(worker.log)}."
        )
        super().__init__(
            f"The worker did not start. Its log, {as_typed(worker.log)}, ends with:\n{worker.last_lines()}"
        )


class Stack:
    """One server and its workers. They run inside `async with`, and none of them runs after it.

    Args:
        settings: the settings, with the state folder and the database. Their settings for Temporal are replaced by
            those of the embedded server.
        show: prints what starts and what stops.
        worker: the command that starts a worker process.
        folder: the folder in which workers run.
        postgres: whether to run a PostgreSQL as well, and use it as the home database.
        commands: commands to suggest if a server already runs on the state folder.
    """

    def __init__(
        self,
        settings: Settings,
        show: Show,
        *,
        worker: Sequence[str] = WORKER,
        folder: Path | None = None,
        postgres: bool = False,
        commands: Sequence[str] = (),
    ) -> None:
        self.show = show
        self.settings = settings
        # Each database has its own Temporal state, because executions of one database would repeat effects in the
        # other.
        self.server = EmbeddedServer(settings.state_dir, database_file="postgres.db" if postgres else "temporal.db")
        self.workers: list[Child] = []
        self.survives_faults = False
        """Whether to continue without a worker if one cannot be replaced, because its code is about to change."""
        self._postgres = EmbeddedPostgres(self.server.state_dir / "postgres") if postgres else None
        self._worker = tuple(worker)
        self._folder = folder or Path.cwd()
        self._commands = commands
        self._started = 0
        self._starting: list[Child] = []
        self._draining: list[asyncio.Task[bool]] = []

    async def __aenter__(self) -> Self:
        self.show.step("Starting Temporal's development server ...")
        _prepare_state(self.server.state_dir)
        try:
            await self.server.start()
        except AlreadyRunning as fault:
            hints = "\n".join(f"  {command}" for command in self._commands)
            use = f"\nTo use it:\n{hints}" if hints else ""
            raise GaveUp(f"{fault}{use}\nTo stop it: Ctrl-C in its terminal.") from fault
        changes = {
            "state_dir": self.server.state_dir,
            "temporal_address": self.server.address,
            "ui_url": self.server.ui_url,
        }
        try:
            if self._postgres is not None:
                self.show.step("Starting PostgreSQL ...")
                await self._postgres.start()
                self.server.announce(database_url=self._postgres.url)
                changes["database_url"] = self._postgres.url
        except BaseException:
            await self.server.stop()
            raise
        for log in self.server.state_dir.glob(_LOG.format("*")):  # remove the logs of an earlier run
            log.unlink(missing_ok=True)
        for moved in self.server.moved:
            self.show.wait(moved)
        self.settings = self.settings.model_copy(update=changes)
        os.environ.update(self._environment())
        for name in self._foreign_variables():
            del os.environ[name]
        where = as_typed(self.server.state_dir)
        self.show.step(
            f"Temporal is at {self.server.address}, its Web UI at {self.server.ui_url}, all state in {where}"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            stopping = (worker.stop(seconds=_STOP_SECONDS) for worker in (*self._starting, *self.workers))
            await asyncio.gather(*stopping, *self._draining)
        finally:
            try:
                await self.server.stop()
            finally:
                if self._postgres is not None:
                    await self._postgres.stop()

    async def start_worker(self) -> Child:
        """Start a worker process without a supervisor, and wait until it accepts work.

        Raises:
            WorkerFailed: it ended, or took too long.
        """
        self._started += 1
        log = self.server.state_dir / _LOG.format(self._started)
        worker = Child.start(self._worker, log=log, cwd=self._folder)
        self._starting.append(worker)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                ready = await worker.wait_until(lambda: READY_LINE.encode() in log.read_bytes())
        except TimeoutError:
            ready = False
        if not ready:
            await worker.kill()
            self._starting.remove(worker)
            raise WorkerFailed(worker)
        self._starting.remove(worker)
        self.workers = [other for other in self.workers if not other.has_ended] + [worker]
        return worker

    async def replace_workers(self) -> Child:
        """Start a worker, and drain all others once it accepts work. If it does not start, the others continue.

        Raises:
            WorkerFailed: it ended, or took too long.
        """
        others = self.workers
        worker = await self.start_worker()
        self.workers = [worker]
        self._draining = [task for task in self._draining if not task.done()]
        self._draining += [asyncio.create_task(other.stop(seconds=_STOP_SECONDS)) for other in others]
        return worker

    async def stay(self) -> None:
        """Keep everything running until Ctrl-C or SIGTERM. A worker that dies is replaced.

        Raises:
            GaveUp: the server ended, or a worker cannot be replaced.
            BrokenPipeError: the terminal was closed.
        """
        server = asyncio.ensure_future(self.server.wait_ended())
        try:
            while not server.done() and not self.show.has_lost_its_terminal:
                working = [asyncio.ensure_future(worker.wait_ended()) for worker in self.workers]
                try:
                    await asyncio.wait([server, *working], timeout=1, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for waiting in working:
                        waiting.cancel()
                if not server.done():
                    await self._replace_dead_workers()
        except asyncio.CancelledError:
            # A request to stop is the normal end of `stay`, so the caller continues as if not cancelled.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            self.show.plain()
            self.show.step("Stopping: the worker finishes its running steps ... (Ctrl-C again ends immediately)")
            return
        finally:
            server.cancel()
        if not server.done():
            raise BrokenPipeError
        raise GaveUp(
            f"Temporal's server ended. Its log, {as_typed(self.server.log)}, ends with:\n{self.server.last_lines()}"
        )

    async def _replace_dead_workers(self) -> None:
        for worker in [worker for worker in self.workers if worker.has_ended]:
            description = f"worker {worker.pid} ended with {worker.exit_code} (log {as_typed(worker.log)})"
            self.show.wait(f"The {description}; starting another")
            self.workers = [other for other in self.workers if other is not worker]
            try:
                replacement = await self.start_worker()
            except WorkerFailed as fault:
                if not self.survives_faults:
                    raise
                self.show.fault(f"No worker runs until the code is corrected.\n{fault.log}")
            else:
                self.show.step(f"Worker {replacement.pid} has taken over")

    def _environment(self) -> dict[str, str]:
        """Return the environment variables for this process's client and for every worker."""
        database_url = self.settings.database_url
        return {
            "TEMPORAL_ADDRESS": self.server.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "ORCHESTRATOR_STATE_DIR": str(self.server.state_dir),
            **({"ORCHESTRATOR_DATABASE_URL": database_url} if database_url else {}),
            "PYTHONUNBUFFERED": "1",
        }

    def _foreign_variables(self) -> list[str]:
        """Return the variables that lead to another Temporal server, such as its keys. They are not used here."""
        return [name for name in os.environ if name.startswith("TEMPORAL_") and name not in self._environment()]


def _prepare_state(folder: Path) -> None:
    """Create the state folder, and make git ignore it wherever it is."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
