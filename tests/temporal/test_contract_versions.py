"""Two contract versions are in flight at once; what an old worker cannot read waits for a new one."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator import EventBus
from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, reason_of
from orchestrator.cli.diagnosis.parked import parked_events
from orchestrator.protocol.messages.envelope import read
from orchestrator.protocol.names import own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from tests.closing import ClosingBus
from tests.house import House, eventually, new_id, open_house, worker_client
from tests.versions import after, before

EACH = 10


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application whose worker has version 1."""
    async with open_house(client, database, before.CATALOG, task_queue=f"versions-{uuid4()}") as opened:
        yield opened


@asynccontextmanager
async def newer_worker(house: House) -> AsyncGenerator[None]:
    """Run a worker of version 2 on the same task queue."""
    address = house.client.service_client.config.target_host
    twin = worker_client(await Client.connect(address, namespace=house.client.namespace))
    settings = Settings(task_queue=house.task_queue, log_level="ERROR")
    async with Manager(settings, catalog=after.CATALOG).worker(Ready(twin, house.database, after.CATALOG)):
        yield


def newer_bus(house: House) -> EventBus:
    """Return a client's bus of version 2."""
    return ClosingBus(house.client, after.CATALOG, task_queue=house.task_queue, database=house.database)


@pytest.mark.exhaustive
async def test_workers_of_two_versions_side_by_side_finish_events_of_both_versions(house: House) -> None:
    old = [before.CrateMoveRequested.example()] * EACH
    new = [after.CrateMoveRequested.example()] * EACH

    async with newer_worker(house):
        handles = [handle for published in await house.bus.publish_many(old) for handle in published]
        handles += [handle for published in await newer_bus(house).publish_many(new) for handle in published]
        outcomes = [await handle.outcome() for handle in handles]

    assert [outcome.phase.value for outcome in outcomes] == ["completed"] * 4 * EACH
    assert (await house.holdings()).boxes == {"a": 100 - 4 * EACH, "b": 4 * EACH}
    assert not await house.dead_letters()
    versions = [outcome.event["dataversion"] for outcome in outcomes]
    assert versions[2 * EACH :] == [2] * 2 * EACH, "the new worker finishes all new events, in both placements"
    assert set(versions[: 2 * EACH]) == {1, 2}, "each worker finishes some of the old events"


async def test_a_newer_event_is_parked_and_shown_as_such_and_finished_once_a_newer_worker_runs(house: House) -> None:
    event_id = new_id()

    handles = await newer_bus(house).publish(after.CrateMoveRequested.example(), event_id=event_id)
    await house.bus.execute(before.CrateMove, before.CrateMoveRequested.example())  # other events are handled

    for name in ("CrateMove", "CrateSwarm"):

        async def is_parked(name: str = name) -> bool:
            reason = await reason_of(house.client, own_workflow_id(name, event_id))
            return (
                reason is not None
                and reason.kind is BlockedReason.PARKED
                and "start a worker" in reason.sentence.lower()
            )

        await eventually(is_parked, f"{name} is parked")
    assert not await house.dead_letters()
    listed = [
        (event.event_id, event.orchestrator) for event in await parked_events(house.client, orchestrator="CrateMove")
    ]
    assert (event_id, "CrateMove") in listed
    async with newer_worker(house):
        results = [await handle.result() for handle in handles]

    assert results == [after.CrateMoveCompleted(coins=after.Coins(count=1, colour="gold"))] * 2
    assert (await house.holdings()).boxes == {"a": 96, "b": 4}


async def test_an_old_event_published_again_in_the_new_version_is_a_repeat(house: House) -> None:
    event_id = new_id()
    first = await house.bus.execute(before.CrateMove, before.CrateMoveRequested.example(), event_id=event_id)

    again = await newer_bus(house).execute(after.CrateMove, after.CrateMoveRequested.example(), event_id=event_id)

    assert first == before.CrateMoveCompleted(coins=1)
    assert again == after.CrateMoveCompleted(coins=after.Coins(count=1, colour="gold"))


async def test_correlation_and_causation_are_carried_to_the_outcome_event(house: House) -> None:
    event_id = new_id()
    await house.bus.execute(before.CrateMove, before.CrateMoveRequested.example(), event_id=event_id)

    [sent, *_] = [read(row.envelope) for row in await house.outbox() if row.target is None]

    assert (sent.correlation_id, sent.causation_id) == (event_id, event_id)
