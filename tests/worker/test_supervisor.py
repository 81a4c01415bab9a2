"""A supervisor replaces worker processes that die or hang, while the others keep running."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator.client import EventBus
from orchestrator.definition.catalog import Catalog
from tests.docs.markdown import ROOT
from tests.house import new_id
from tests.worker.blocking import Block, BlockCompleted, BlockRequested

PATIENCE = 90


class Supervised:
    """A supervisor with its processes and all their output."""

    def __init__(self, process: Process, bus: EventBus, marks: Path) -> None:
        self.process = process
        self.bus = bus
        self.marks = marks
        self.output = ""
        self._reading = [asyncio.create_task(self._read(pipe)) for pipe in (process.stdout, process.stderr)]

    async def _read(self, pipe: asyncio.StreamReader | None) -> None:
        assert pipe is not None
        while line := await pipe.readline():
            self.output += line.decode()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # noqa: ASYNC110 - what is looked at is in other processes
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.output) from None

    async def until_ready(self, times: int) -> None:
        """Wait until processes have logged this many times in all that they are ready."""
        await self.until(lambda: self.output.count("Worker ready") >= times)

    async def ended(self) -> int:
        """Wait until the supervisor has ended and all output is read; returns its exit code."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await asyncio.gather(*self._reading)
        return code

    @property
    def children(self) -> list[int]:
        """Process ids of the worker processes."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    async def complete_a_saga(self, how: str = "well") -> None:
        """Check that a saga completes."""
        event_id = new_id()
        async with asyncio.timeout(PATIENCE):
            assert await self.bus.execute(Block, BlockRequested(how=how), event_id=event_id) == BlockCompleted()


@asynccontextmanager
async def supervised(client: Client, folder: Path, processes: int) -> AsyncGenerator[Supervised]:
    """A supervisor whose processes are all ready; it is killed at the end."""
    queue = f"supervised-{uuid4()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "worker.py", "--processes", str(processes)),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
        env={
            **os.environ,
            "TEMPORAL_ADDRESS": client.service_client.config.target_host,
            "ORCHESTRATOR_STATE_DIR": str(folder),
            "ORCHESTRATOR_TASK_QUEUE": queue,
            "ORCHESTRATOR_PACKAGES": "tests.worker.blocking",
            "ORCHESTRATOR_RECOVERY_INTERVAL": "0",
            "MARKS": str(folder),
        },
    )
    catalog = Catalog.discover(["tests.worker.blocking"])
    try:
        started = Supervised(process, EventBus(client, catalog, task_queue=queue), folder)
        await started.until_ready(processes)
        yield started
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux = pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc")


@linux
async def test_killed_and_stopped_processes_are_replaced_and_all_processes_drain(
    client: Client, tmp_path: Path
) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        killed, stopped = workers.children
        os.kill(killed, signal.SIGKILL)
        os.kill(stopped, signal.SIGSTOP)
        await workers.until_ready(4)
        assert f"Worker process {killed} ended (by SIGKILL)" in workers.output
        assert f"Worker process {stopped} has given no sign of life" in workers.output
        assert not {killed, stopped} & set(workers.children)
        await workers.complete_a_saga()

        children = workers.children
        workers.process.send_signal(signal.SIGTERM)

        assert await workers.ended() == 0
        assert workers.output.count("Drained.") == 1
        assert [pid for pid in children if is_alive(pid)] == []


@linux
async def test_a_supervisor_that_is_killed_leaves_no_process_behind(client: Client, tmp_path: Path) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        children = workers.children
        assert len(children) == 2

        workers.process.kill()

        await workers.until(lambda: not any(is_alive(pid) for pid in children))


@pytest.mark.parametrize(
    ("how", "message"), [("sleep", r"loop was blocked .* by blocking\.pass_by"), ("stop", "has given no sign of life")]
)
async def test_a_step_that_blocks_or_stops_its_process_is_retried_and_other_sagas_complete(
    client: Client, tmp_path: Path, how: str, message: str
) -> None:
    """The test uses SQLite, where the blocked step locks the file against all writers."""
    async with supervised(client, tmp_path, 2) as workers:
        await asyncio.gather(workers.complete_a_saga(how), workers.complete_a_saga())

        assert (tmp_path / how).exists()
        assert re.search(message, workers.output)


@pytest.mark.parametrize(("how", "message"), [("loop", "Workflow code has not returned"), ("segfault", "SIGSEGV")])
async def test_other_sagas_complete_although_one_handle_kills_its_process(
    client: Client, tmp_path: Path, how: str, message: str
) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        [poison] = await workers.bus.publish(BlockRequested(how=how))
        await workers.until(lambda: message in workers.output)

        await asyncio.gather(*(workers.complete_a_saga() for _ in range(5)))

        await workers.bus.client.get_workflow_handle(poison.workflow_id).terminate()
