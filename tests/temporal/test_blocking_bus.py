"""The blocking twin at a real server: outcomes, refusals, listening, a fork, and the end of a process."""

import asyncio
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator import BlockingEventBus, EventTimeout, NotFinished, SagaFailed
from orchestrator.settings import Settings
from tests.cast_events import ApprovalRequested, Approved, CoinsMoveCompleted, CoinsMoveRequested, NothingRequested
from tests.house import CATALOG, House, eventually, new_id
from tests.orchestrators import Approval, CoinsMove, Nothing

SOON = timedelta(seconds=20)
MOVE = CoinsMoveRequested(source="a", target="b", coins=3)
FORKING = Path(__file__).with_name("forking.py")


def settings_of(house: House) -> Settings:
    """For a client without a database."""
    return Settings(
        temporal_address=house.client.service_client.config.target_host,
        task_queue=house.task_queue,
        state_dir=Path("none"),
    )


async def test_a_script_publishes_waits_follows_and_listens(house: House) -> None:
    event_id = new_id()

    def script() -> None:
        with BlockingEventBus.connect(settings_of(house), catalog=CATALOG) as bus:
            with bus.listening(CoinsMoveCompleted) as heard:
                completed = bus.execute(CoinsMove, MOVE, event_id=event_id, timeout=SOON)
                assert heard.next(timeout=SOON) == completed
            again = bus.saga(CoinsMove, event_id)
            assert again.result(timeout=SOON) == completed
            assert [progress.what for progress in again.follow()][-1] == "finish: completed"
            assert next(again.follow()).what == "step 1: cast.take"  # and the rest is given up
            with pytest.raises(SagaFailed, match="asked to refuse"):
                bus.execute(Nothing, NothingRequested(refuse=True), timeout=SOON)
            with pytest.raises(EventTimeout):
                bus.next_event(CoinsMoveCompleted, timeout=timedelta(seconds=0.1))

    await asyncio.to_thread(script)

    assert (await house.holdings()).boxes == {"a": 97, "b": 3}


async def test_an_event_is_sent_to_a_saga_that_waits(house: House) -> None:
    def script() -> str:
        with BlockingEventBus.connect(settings_of(house), catalog=CATALOG) as bus:
            [handle] = bus.publish(ApprovalRequested(coins=1, wait_seconds=20))
            with pytest.raises(NotFinished, match="it continues"):
                handle.result(timeout=timedelta(seconds=0.1))
            bus.send(Approved(coins=1, by="olena"), to=Approval, triggering_event_id=handle.event_id)
            return bus.saga(Approval, handle.event_id).result(timeout=SOON).by

    assert await asyncio.to_thread(script) == "olena"


async def test_a_process_that_forks_ends_well_and_so_do_its_children(house: House) -> None:
    """The SDK's threads do not survive a fork, and freeing its runtime in the child would wait for them for ever."""
    environment = {
        **os.environ,
        "TEMPORAL_ADDRESS": house.client.service_client.config.target_host,
        "ORCHESTRATOR_TASK_QUEUE": house.task_queue,
        "ORCHESTRATOR_STATE_DIR": "none",
    }
    command = [sys.executable, str(FORKING)]

    ran = await asyncio.to_thread(
        subprocess.run, command, env=environment, cwd=FORKING.parents[2], capture_output=True, text=True, timeout=60
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == ["parent 1", *["child 1"] * 4, "children [0, 0, 0, 0]", "parent 1"]

    async def all_moved() -> bool:
        return (await house.holdings()).boxes == {"a": 94, "b": 6}

    await eventually(all_moved, "six coins moved")
