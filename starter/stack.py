"""Runs the embedded mode: Temporal's development server and workers as processes, on one state folder."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Self

from orchestrator.devserver.child import Child
from orchestrator.devserver.server import NAMESPACE, AlreadyRunning, EmbeddedServer
from orchestrator.settings import Settings
from orchestrator.worker.process.manager import DRAIN
from starter.hints import commands_to_try
from starter.process import GaveUp
from starter.show import Show, as_typed

ROOT = Path(__file__).resolve().parent.parent
_READY = b"Worker ready"
_READY_SECONDS = 60
_STOP_SECONDS = DRAIN.total_seconds() + 5


class Stack:
    """One server and its workers, which run inside `async with` and are stopped at its end.

    Args:
        settings: the state folder and the database. Their address of Temporal is replaced by the embedded server's.
        show: prints what starts and what stops.
    """

    def __init__(self, settings: Settings, show: Show) -> None:
        self.show = show
        self.server = EmbeddedServer(settings.state_dir)
        self.settings = settings
        self.workers: list[Child] = []
        self._started = 0

    async def __aenter__(self) -> Self:
        self.show.step("Starting Temporal's development server ...")
        try:
            await self.server.start()
        except AlreadyRunning as fault:
            hints = "\n".join(f"  {command}" for command in commands_to_try(self.settings.state_dir))
            raise GaveUp(f"{fault}\nTo use it:\n{hints}\nTo stop it: Ctrl-C in its terminal.") from fault
        for message in self.server.moved:
            self.show.wait(message)
        self.settings = self.settings.model_copy(
            update={
                "state_dir": self.server.state_dir,
                "temporal_address": self.server.address,
                "ui_url": self.server.ui_url,
            }
        )
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
            await asyncio.gather(*(worker.stop(seconds=_STOP_SECONDS) for worker in self.workers))
        finally:
            await self.server.stop()

    async def start_worker(self) -> Child:
        """Start a worker process without the engine's supervisor, and wait until it is ready.

        Raises:
            GaveUp: it exited or took too long; the message contains the end of its log.
        """
        self._started += 1
        log = self.server.state_dir / f"worker-{self._started}.log"
        worker = Child.start([sys.executable, str(ROOT / "worker.py"), "--no-supervisor"], log=log, cwd=ROOT)
        self.workers = [other for other in self.workers if not other.has_ended] + [worker]
        try:
            async with asyncio.timeout(_READY_SECONDS):
                ready = await worker.wait_until(lambda: _READY in log.read_bytes())
        except TimeoutError:
            ready = False
        if not ready:
            raise GaveUp(f"The worker did not start. Its log, {as_typed(log)}, ends with:\n{worker.last_lines()}")
        return worker

    async def stay(self) -> None:
        """Keep everything running until Ctrl-C or SIGTERM, and replace each worker that dies.

        Raises:
            GaveUp: the server ended, or a worker cannot be started.
            BrokenPipeError: the terminal was closed.
        """
        server = asyncio.ensure_future(self.server.wait_ended())
        try:
            while not server.done() and not self.show.has_lost_its_terminal:
                waiters = [asyncio.ensure_future(worker.wait_ended()) for worker in self.workers]
                try:
                    await asyncio.wait([server, *waiters], timeout=1, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for waiter in waiters:
                        waiter.cancel()
                for worker in [worker for worker in self.workers if worker.has_ended and not server.done()]:
                    ended = f"worker {worker.pid} ended with {worker.exit_code} (log {as_typed(worker.log)})"
                    self.show.wait(f"The {ended}; starting another")
                    replacement = await self.start_worker()
                    self.show.step(f"Worker {replacement.pid} has taken over")
        except asyncio.CancelledError:
            # Ctrl-C is the normal end, so the cleanup must not be cancelled, too.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            self.show.plain()
            self.show.step("Stopping: the worker finishes its running steps ... (Ctrl-C again ends at once)")
            return
        finally:
            server.cancel()
        if not server.done():
            raise BrokenPipeError
        raise GaveUp(
            f"Temporal's server ended. Its log, {as_typed(self.server.log)}, ends with:\n{self.server.last_lines()}"
        )

    def _environment(self) -> dict[str, str]:
        """Return the environment variables for our own client and for every worker."""
        return {
            "TEMPORAL_ADDRESS": self.server.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "ORCHESTRATOR_STATE_DIR": str(self.server.state_dir),
            **({"ORCHESTRATOR_DATABASE_URL": self.settings.database_url} if self.settings.database_url else {}),
            "PYTHONUNBUFFERED": "1",
        }

    def _foreign_variables(self) -> list[str]:
        """Return the variables of another Temporal, whose keys and certificates must not be used here."""
        return [name for name in os.environ if name.startswith("TEMPORAL_") and name not in self._environment()]
