"""Several worker processes under one supervisor: what dies or stands still is followed up, and the others go on."""

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
    """A supervisor with its processes, and what they said."""

    def __init__(self, process: Process, bus: EventBus, marks: Path) -> None:
        self.process = process
        self.bus = bus
        self.marks = marks
        self.said = ""
        self._reading = [asyncio.create_task(self._read(pipe)) for pipe in (process.stdout, process.stderr)]

    async def _read(self, pipe: asyncio.StreamReader | None) -> None:
        assert pipe is not None
        while line := await pipe.readline():
            self.said += line.decode()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something to be so."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():  # noqa: ASYNC110 - what is looked at is in other processes
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.said) from None

    async def until_ready(self, times: int) -> None:
        """Wait until so many processes said that they are ready, in all."""
        await self.until(lambda: self.said.count("Worker ready") >= times)

    async def ended(self) -> int:
        """Its exit code, with everything said."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await asyncio.gather(*self._reading)
        return code

    @property
    def children(self) -> list[int]:
        """Process ids of its worker processes."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    async def passes(self, how: str = "well") -> None:
        """A saga completes."""
        event_id = new_id()
        async with asyncio.timeout(PATIENCE):
            assert await self.bus.execute(Block, BlockRequested(how=how), event_id=event_id) == BlockCompleted()


@asynccontextmanager
async def supervised(client: Client, folder: Path, processes: int) -> AsyncGenerator[Supervised]:
    """A supervisor whose processes are all ready; killed in the end."""
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
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
async def test_killed_ones_and_stopped_ones_are_followed_up_and_all_of_them_drain(
    client: Client, tmp_path: Path
) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        killed, stopped = workers.children
        os.kill(killed, signal.SIGKILL)
        os.kill(stopped, signal.SIGSTOP)
        await workers.until_ready(4)
        assert f"Worker process {killed} ended (by SIGKILL)" in workers.said
        assert f"Worker process {stopped} has given no sign of life" in workers.said
        assert not {killed, stopped} & set(workers.children)
        await workers.passes()

        children = workers.children
        workers.process.send_signal(signal.SIGTERM)

        assert await workers.ended() == 0
        assert workers.said.count("Drained.") == 1
        assert [pid for pid in children if is_alive(pid)] == []


@linux
async def test_a_supervisor_that_is_killed_leaves_no_process_behind(client: Client, tmp_path: Path) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        children = workers.children
        assert len(children) == 2

        workers.process.kill()

        await workers.until(lambda: not any(is_alive(pid) for pid in children))


@pytest.mark.parametrize(
    ("how", "told"), [("sleep", r"loop was blocked .* by blocking\.pass_by"), ("stop", "has given no sign of life")]
)
async def test_a_step_that_blocks_or_stops_its_process_is_taken_up_and_the_others_go_on(
    client: Client, tmp_path: Path, how: str, told: str
) -> None:
    """On SQLite, where the step holds the file against every writer."""
    async with supervised(client, tmp_path, 2) as workers:
        await asyncio.gather(workers.passes(how), workers.passes())

        assert (tmp_path / how).exists()
        assert re.search(told, workers.said)


@pytest.mark.parametrize(("how", "told"), [("loop", "Workflow code has not returned"), ("segfault", "SIGSEGV")])
async def test_the_others_finish_beside_a_handle_that_kills_its_process(
    client: Client, tmp_path: Path, how: str, told: str
) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        [poison] = await workers.bus.publish(BlockRequested(how=how))
        await workers.until(lambda: told in workers.said)

        await asyncio.gather(*(workers.passes() for _ in range(5)))

        await workers.bus.client.get_workflow_handle(poison.workflow_id).terminate()
