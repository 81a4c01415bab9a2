"""Processes that die during a partition's wave: the other sagas complete, and ordering keys keep their order."""

import os
import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.house import new_id
from tests.worker.blocking import CrowdRequested
from tests.worker.test_supervisor import Supervised, linux, supervised


def sagas_of(workers: Supervised) -> dict[str, tuple[str, int, str]]:
    """Phase, drives and owner of each saga, by event id."""
    with closing(sqlite3.connect(f"file:{workers.marks}/application.db?mode=ro", uri=True)) as database:
        saga_rows = database.execute("SELECT event_id, phase, drives, owner_workflow_id FROM saga").fetchall()
    return {event_id: (phase, drives, owner) for event_id, phase, drives, owner in saga_rows}


def runs_in(folder: Path) -> list[tuple[int, int]]:
    """The recorded runs in order, each with the event's number and the process id."""
    try:
        lines = (folder / "runs").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


def _has_reached(number: int, folder: Path) -> bool:
    runs = runs_in(folder)
    return bool(runs) and runs[-1][0] >= number


@linux
@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("count", "kills"), [(100, 2), (1_000, 5)])
async def test_events_of_one_key_keep_their_order_when_their_driver_is_killed(
    client: Client, tmp_path: Path, count: int, kills: int
) -> None:
    async with supervised(client, tmp_path, 2) as workers:
        events = [CrowdRequested(how="well", number=number, key="k") for number in range(count)]
        ids = [new_id() for _ in events]
        handles = await workers.bus.publish_many(events, event_ids=ids)
        for kill in range(1, kills + 1):
            mark = count * kill // (kills + 1)
            await workers.until(partial(_has_reached, mark, tmp_path))
            os.kill(runs_in(tmp_path)[-1][1], signal.SIGKILL)
        await workers.until(lambda: [phase for phase, _, _ in sagas_of(workers).values()].count("completed") == count)

        assert workers.output.count("ended (by SIGKILL)") == kills
        numbers = [number for number, _ in runs_in(tmp_path)]
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(count))
        assert set(sagas_of(workers)) == set(ids)
        await workers.bus.client.get_workflow_handle(handles[0][0].workflow_id).terminate()


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["loop", "segfault"])
async def test_a_handle_that_kills_its_process_gets_its_own_execution_and_the_wave_completes(
    client: Client, tmp_path: Path, how: str
) -> None:
    poison, ids = new_id(), [new_id() for _ in range(20)]
    async with supervised(client, tmp_path, 2) as workers:
        events = [CrowdRequested(how="well") for _ in ids]
        events.insert(10, CrowdRequested(how=how))
        handles = await workers.bus.publish_many(events, event_ids=[*ids[:10], poison, *ids[10:]])

        def others_have_completed() -> bool:
            sagas = sagas_of(workers)
            return all(sagas.get(event_id, ("", 0, ""))[0] == "completed" for event_id in ids)

        await workers.until(others_have_completed)
        own = f"Crowd/event/{poison}"
        await workers.until(lambda: sagas_of(workers)[poison][2] == own)

        phase, drives, _ = sagas_of(workers)[poison]
        assert phase == "forward"
        assert drives > 2
        for workflow_id in (own, handles[0][0].workflow_id):
            await workers.bus.client.get_workflow_handle(workflow_id).terminate()
