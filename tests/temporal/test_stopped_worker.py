"""A worker process is suspended with SIGSTOP inside a step and continued after its saga was undone."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from temporalio.client import Client

from orchestrator import SagaCancelled
from orchestrator.store.core.database import Database
from tests.cast_events import CoinsMoveRequested
from tests.conftest import Kind
from tests.house import CATALOG, eventually, new_id, open_house


async def read_when_written(file: Path, within: float = 60.0) -> str:
    """Wait for a file that another process writes, and return its text."""

    async def exists() -> bool:
        return await asyncio.to_thread(file.exists)

    await eventually(exists, f"{file.name} is written", within)
    return await asyncio.to_thread(file.read_text)


@pytest.mark.parametrize("attempt", ["local", "regular"])
async def test_a_worker_that_is_suspended_inside_a_step_and_wakes_after_the_undo_changes_nothing(
    database: Database, kind: Kind, client: Client, tmp_path: Path, attempt: str
) -> None:
    """PostgreSQL ends the suspended transaction. On SQLite the process holds the file until the supervisor kills it.

    So on SQLite a suspended process never writes late: every other writer has waited for its end.
    """
    queue = f"stopped-{new_id()}"
    environment = {
        **os.environ,
        "SERVER": client.service_client.config.target_host,
        "DATABASE": database.url.set(drivername=kind).render_as_string(hide_password=False),
        "TASK_QUEUE": queue,
        "FOLDER": str(tmp_path),
        "ATTEMPT": attempt,
    }
    async with open_house(client, database, CATALOG, task_queue=queue, working=False) as house:
        before = await house.holdings()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.temporal.stopping_worker", env=environment
        )
        try:
            await read_when_written(tmp_path / "ready")
            [saga] = await house.bus.publish(CoinsMoveRequested(source="a", target="b", coins=10))
            await read_when_written(tmp_path / "inside")
            await house.client.get_workflow_handle(saga.workflow_id).cancel()
            if kind == "sqlite":
                process.kill()
            async with house.another_worker():
                with pytest.raises(SagaCancelled):
                    await saga.result()
                assert await house.holdings() == before
                undone = [(step.number, step.state) for step in await house.steps()]
                if kind == "sqlite":
                    return

                process.send_signal(signal.SIGCONT)
                assert (await read_when_written(tmp_path / "ended")).startswith("failed")

            assert await house.holdings() == before
            assert [(step.number, step.state) for step in await house.steps()] == undone
            assert [row.phase for row in await house.sagas()] == ["cancelled"]
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
