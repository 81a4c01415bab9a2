"""Sagas in partitions, on the real server and both databases."""

from collections.abc import AsyncGenerator, Generator
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator.store.database import Database
from tests.house import House, new_id, open_house
from tests.swarm import CATALOG, EVENT, Fixed, Swarm, SwarmCompleted


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    async with open_house(client, database, CATALOG, task_queue=f"swarm-{uuid4()}") as made:
        yield made
        for number in (1, 2):
            partition = client.get_workflow_handle(f"Swarm/partition/{number}-of-2")
            await end(partition)


async def end(partition: object) -> None:
    import contextlib

    from temporalio.service import RPCError

    with contextlib.suppress(RPCError):
        await partition.terminate()  # type: ignore[attr-defined]


@pytest.fixture
def mended() -> Generator[None]:
    yield
    Fixed.now = False


async def test_an_event_becomes_a_completed_saga(house: House) -> None:
    before, event_id = await house.holdings(), new_id()

    completed = await house.bus.execute(Swarm, EVENT, event_id=event_id)

    assert completed == SwarmCompleted(coins=1)
    assert await house.holdings() == before.moved("a", "b", 1)
    [saga] = await house.sagas()
    assert (saga.phase, saga.drives) == ("completed", 1)
    assert saga.owner_workflow_id in ("Swarm/partition/1-of-2", "Swarm/partition/2-of-2")
    [sent] = await house.outbox()
    assert sent.event_id == saga.outcome_event_id
