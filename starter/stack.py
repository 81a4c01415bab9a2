"""The embedded mode as processes: Temporal's development server and workers, on one state folder."""

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
    """One server and its workers; inside `async with` it runs, after it nothing does.

    Args:
        settings: which state folder and which database. What they say about Temporal gives way to the embedded server.
        show: is told what starts and what stops.
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
        for moved in self.server.moved:
            self.show.wait(moved)
        self.settings = self.settings.model_copy(
            update={
                "state_dir": self.server.state_dir,
                "temporal_address": self.server.address,
                "ui_url": self.server.ui_url,
            }
        )
        os.environ.update(self._environment())
        for name in self._foreign():
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
        """Start a worker as a process of its own, supervised by us alone, and wait until it takes work.

        Raises:
            GaveUp: it ended, or took too long; with the end of its log.
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
        """Keep everything running until Ctrl-C or SIGTERM; a worker that dies is followed by another.

        Raises:
            GaveUp: the server ended, or a worker cannot be started any more.
            BrokenPipeError: nobody is there to look any more.
        """
        server = asyncio.ensure_future(self.server.wait_ended())
        try:
            while not server.done() and not self.show.has_lost_its_terminal:
                working = [asyncio.ensure_future(worker.wait_ended()) for worker in self.workers]
                try:
                    await asyncio.wait([server, *working], timeout=1, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in working:
                        one.cancel()
                for worker in [worker for worker in self.workers if worker.has_ended and not server.done()]:
                    told = f"worker {worker.pid} ended with {worker.exit_code} (log {as_typed(worker.log)})"
                    self.show.wait(f"The {told}; starting another")
                    replacement = await self.start_worker()
                    self.show.step(f"Worker {replacement.pid} has taken over")
        except asyncio.CancelledError:
            # Told to stop: that is how staying ends, so leaving goes on undisturbed.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            self.show.plain()
            self.show.step("Stopping: the worker ends the steps it is at ... (Ctrl-C again ends at once)")
            return
        finally:
            server.cancel()
        if not server.done():
            raise BrokenPipeError
        raise GaveUp(
            f"Temporal's server ended. Its log, {as_typed(self.server.log)}, ends with:\n{self.server.last_lines()}"
        )

    def _environment(self) -> dict[str, str]:
        """What our own client and every worker go by."""
        return {
            "TEMPORAL_ADDRESS": self.server.address,
            "TEMPORAL_NAMESPACE": NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "ORCHESTRATOR_STATE_DIR": str(self.server.state_dir),
            **({"ORCHESTRATOR_DATABASE_URL": self.settings.database_url} if self.settings.database_url else {}),
            "PYTHONUNBUFFERED": "1",
        }

    def _foreign(self) -> list[str]:
        """Variables that lead to another Temporal: its keys and certificates have no place here."""
        return [name for name in os.environ if name.startswith("TEMPORAL_") and name not in self._environment()]
