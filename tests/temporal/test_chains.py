"""Events start several orchestrators, in sequence and side by side, in both placements."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from orchestrator import outbox
from orchestrator.protocol.messages.envelope import read, saga_id, wrap
from orchestrator.settings import Settings
from orchestrator.store import outbox as store_outbox
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.relay.delivery import Delivery
from orchestrator.worker.relay.limits import RelayLimits
from tests.cast import stock
from tests.chain import (
    CATALOG,
    EVENT,
    ORCHESTRATORS,
    FirstLink,
    LinkRequested,
    SecondLinkCompleted,
    ThirdLink,
    Watching,
)
from tests.house import House, eventually, new_id, open_house, rows

QUICK = RelayLimits(first_look=timedelta(milliseconds=20), last_look=timedelta(milliseconds=50))


@pytest.fixture(params=[None, 2], ids=["own", "partitions"])
async def house(
    request: pytest.FixtureRequest, database: Database, client: Client, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[House]:
    """The chain's orchestrators in one placement, and a relay that polls often."""
    for orchestrator in ORCHESTRATORS:
        monkeypatch.setattr(orchestrator, "partitions", request.param)
    monkeypatch.setattr(store_outbox, "FORWARD_AFTER", timedelta(0))
    async with (
        open_house(client, database, CATALOG, task_queue=f"chains-{uuid4()}") as opened,
        opened.manager.relaying(opened.ready, QUICK),
    ):
        yield opened


async def ended(house: House, count: int) -> dict[str, Any]:
    """Wait until so many sagas have ended and the outbox is empty; return the sagas by orchestrator."""

    async def all_ended() -> bool:
        sagas = await house.sagas()
        are_sent = all(row.sent_at is not None for row in await house.outbox())
        return len([saga for saga in sagas if saga.outcome]) >= count and are_sent

    await eventually(all_ended, f"{count} sagas have ended", within=30)
    sagas = await house.sagas()
    assert len(sagas) == count
    return {saga.orchestrator: saga for saga in sagas}


@pytest.mark.parametrize("refuse", [False, True], ids=["completed", "failed"])
async def test_an_outcome_starts_the_next_saga_and_keeps_the_first_events_correlation(
    house: House, refuse: bool
) -> None:
    event_id = new_id()

    await house.bus.publish(LinkRequested(refuse=refuse, key="k"), event_id=event_id)

    sagas = await ended(house, 4)
    events = {name: read(row.envelope) for name, row in sagas.items()}
    second, third = events["SecondLink"], events["ThirdLink"]
    assert (second.event_type, second.correlation_id, second.causation_id) == ("LINK_COMPLETED", event_id, event_id)
    assert third.event_type == ("SECOND_LINK_FAILED" if refuse else "SECOND_LINK_COMPLETED")
    assert (third.correlation_id, third.causation_id) == (event_id, second.event_id)
    last = json.loads(sagas["ThirdLink"].outcome)["event"]
    assert (last["correlationid"], last["causationid"]) == (event_id, third.event_id)
    assert last["data"] == {"after": "link.refused" if refuse else "well"}
    rows = {row.event_id: row for row in await house.outbox()}
    assert rows[second.event_id].ordering_key == "k"
    assert (await house.holdings()).boxes == {"a": 99, "b": 0 if refuse else 1}
    assert not await house.dead_letters()


async def test_a_listener_that_a_crashed_client_did_not_reach_gets_the_event_from_the_first_listener(
    house: House,
) -> None:
    event_id = new_id()
    envelope = wrap(EVENT, event_id=event_id, source="tests")

    await Delivery(house.client, house.task_queue)(FirstLink, EVENT, envelope)  # here the client crashes

    sagas = await ended(house, 4)
    assert sagas["Watching"].id == saga_id("Watching", event_id)
    assert read(sagas["Watching"].envelope).text == envelope.text
    assert (await house.holdings()).notes == 2


async def test_each_listener_handles_an_event_once_even_if_it_is_published_again(house: House) -> None:
    event_id = new_id()

    for _ in range(2):
        for handle in await house.bus.publish(EVENT, event_id=event_id):
            await handle.outcome()

    sagas = await ended(house, 4)
    forwards = [row for row in await house.outbox() if row.target == store_outbox.Target.MISSING]
    assert {row.saga_id for row in forwards} == {sagas["FirstLink"].id, sagas["Watching"].id}
    assert (await house.holdings()).notes == 2


async def test_a_client_can_wait_for_an_orchestrator_that_handles_several_events(house: House) -> None:
    event_id = new_id()
    first = await house.bus.execute(ThirdLink, SecondLinkCompleted(), event_id=event_id)
    again = await house.bus.execute(ThirdLink, SecondLinkCompleted(), event_id=event_id)

    assert first == again
    assert first.after == "well"
    assert Watching.requests == FirstLink.requests == (LinkRequested,)


async def test_a_worker_sends_events_from_the_outbox_and_drains(database: Database, client: Client) -> None:
    async with database.transaction() as connection:
        await stock(connection, a=100, b=0)
    settings = Settings(
        task_queue=f"chains-{uuid4()}",
        database_url=database.url.render_as_string(hide_password=False),
        temporal_address=client.service_client.config.target_host,
        create_tables=False,
        recovery_interval=0,
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    working = asyncio.create_task(Manager(settings, catalog=CATALOG).run(stop, when_ready=ready.set))
    async with asyncio.timeout(30):
        await ready.wait()

    async with AsyncSession(database.engine) as session, session.begin():
        event_id = await outbox.add(session, SecondLinkCompleted())

    async def ended() -> bool:
        return [row.event_id for row in await rows(database, saga) if row.outcome] == [event_id]

    await eventually(ended, "the saga of the event has ended")
    stop.set()
    async with asyncio.timeout(30):
        await working
