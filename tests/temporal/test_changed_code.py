"""`handle` changes while sagas are in progress, and workers of both versions run side by side."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator import Transaction
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.saga.intervention import cancel_saga
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from tests.cast import Script
from tests.house import House, eventually, open_house, worker_client
from tests.swarm import CATALOG, LoneRequested, SwarmRequested
from tests.swarm_next import NEXT

CHANGES = ("inserted", "removed", "reordered")
EACH = 34
BEFORE = ["cast.take", "cast.put", "cast.write_note"]
"""The steps of the code with which the sagas start."""
NOTHING: list[str] = []
AFTER = {
    "inserted": ["cast.take", "cast.count", "cast.put", "cast.write_note"],
    "removed": ["cast.take", "cast.write_note"],
    "reordered": ["cast.put", "cast.take", "cast.write_note"],
}


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    async with open_house(client, database, CATALOG, task_queue=f"changed-{uuid4()}") as opened:
        yield opened


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("requested", [SwarmRequested, LoneRequested], ids=["partitions", "own"])
async def test_sagas_in_progress_when_handle_changes_end_or_are_stuck_and_can_then_be_cancelled(
    requested: type[SwarmRequested | LoneRequested], house: House, client: Client
) -> None:
    is_open, reached = False, asyncio.Event()

    async def gate(tx: Transaction) -> None:
        if not is_open:
            reached.set()
            raise RuntimeError("not yet")

    Script.before["write_note"] = gate
    events = [requested(source="a", target="b", coins=1, change=change) for change in CHANGES for _ in range(EACH)]
    handles = await house.bus.publish_many(events)
    await reached.wait()
    settings = Settings(task_queue=house.task_queue, log_level="ERROR")
    twin = await Client.connect(client.service_client.config.target_host, namespace=client.namespace)
    async with Manager(settings, catalog=NEXT).worker(Ready(worker_client(twin), house.database, NEXT)):
        is_open = True

        async def has_settled() -> bool:
            sagas = await house.sagas()
            return len(sagas) == len(events) and all(saga.outcome or saga.stuck_step for saga in sagas)

        await eventually(has_settled, "each saga has ended or is stuck", within=400)
        for saga in await house.sagas():
            if saga.outcome is None:
                assert "differs from its record" in saga.stuck_error
                await cancel_saga(house.database, saga.id, by="a test")
                await client.get_workflow_handle(f"{saga.orchestrator}/event/{saga.event_id}").signal("retry")

        outcomes = [await handle.outcome() for [handle] in handles]

    assert {outcome.phase.value for outcome in outcomes} <= {"completed", "cancelled"}
    done = Counter[str]()
    recorded = await house.steps()
    change_of = {handle.event_id: event.change for [handle], event in zip(handles, events, strict=True)}
    for saga in await house.sagas():
        change = change_of[saga.event_id]
        steps = [step.operation for step in recorded if step.saga_id == saga.id and step.state == "done"]
        done.update(steps)
        allowed = (BEFORE, AFTER[change]) if saga.phase == "completed" else (NOTHING, ["cast.count"])
        assert steps in allowed, (saga.phase, change, steps)
    holdings = await house.holdings()
    assert holdings.boxes == {"a": 100 - done["cast.take"], "b": done["cast.put"]}
    assert holdings.notes == done["cast.write_note"]
