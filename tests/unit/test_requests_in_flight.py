"""The client limits its requests in flight, so that any number of concurrent calls is accepted."""

import asyncio
from collections.abc import Awaitable
from typing import Any, cast
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator import Orchestrator, Saga
from orchestrator.client import EventBus
from orchestrator.client.in_flight import LONG_POLLS, REQUESTS
from orchestrator.client.outcomes.lookup import DatabaseLookup
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from tests.cast_events import LetterCompleted, LetterFailed, LetterRequested

EVENT = LetterRequested(source="a", coins=1)


class Posted(Orchestrator[LetterRequested, LetterCompleted, LetterFailed]):
    """Handles each letter in its own execution."""

    awaited = (LetterCompleted,)

    async def handle(self, event: LetterRequested, saga: Saga) -> LetterCompleted:
        """Complete at once."""
        return LetterCompleted()


class Busy:
    """A stand-in for a slow Temporal server that refuses requests above a number in flight."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = self.most = self.served = 0
        self.has_served = asyncio.Event()
        self.is_full = asyncio.Event()

    async def serve(self) -> None:
        """Serve one request."""
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if self.in_flight > self.limit:
                raise RPCError("too many", RPCStatusCode.RESOURCE_EXHAUSTED, b"")
            await asyncio.sleep(0.001)
            self.served += 1
            self.has_served.set()
        finally:
            self.in_flight -= 1

    async def start_workflow(self, *_: object, **__: object) -> "Busy":
        """Start an execution, with or without a signal."""
        await self.serve()
        return self

    result_run_id = "run"

    def get_workflow_handle(self, workflow_id: str, **_: object) -> "Execution":
        """Return a handle of an execution."""
        return Execution(self, workflow_id)


class Execution:
    """An execution that completes if its id ends with `ends`, and never otherwise."""

    def __init__(self, server: Busy, workflow_id: str) -> None:
        self.server = server
        self.workflow_id = workflow_id

    async def signal(self, *_: object) -> None:
        """Signal the execution."""
        await self.server.serve()

    async def result(self) -> dict[str, Any]:
        """Wait for the result with a long poll."""
        self.server.in_flight += 1
        self.server.most = max(self.server.most, self.server.in_flight)
        if self.server.in_flight == LONG_POLLS:
            self.server.is_full.set()
        try:
            if not self.workflow_id.endswith("ends"):
                await asyncio.Event().wait()
            return Outcome(
                phase=Phase.COMPLETED, event_id="1", event={}, content_digest="", triggering={}, triggering_version=1
            ).model_dump(mode="json")
        finally:
            self.server.in_flight -= 1


def bus_on(server: Busy) -> EventBus:
    return EventBus(cast(Client, server), Catalog.of(orchestrators=[Posted]))


async def all_of(many: list[Awaitable[Any]]) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*many)


async def test_three_thousand_gathered_publishes_are_all_accepted() -> None:
    server = Busy(REQUESTS)
    bus = bus_on(server)

    await all_of([bus.publish(EVENT) for _ in range(3000)])

    assert (server.served, server.most) == (3000, REQUESTS)


async def test_publish_many_leaves_room_for_an_event_that_is_published_meanwhile() -> None:
    server = Busy(REQUESTS)
    bus = bus_on(server)
    many = asyncio.create_task(bus.publish_many([EVENT] * 500))
    await server.has_served.wait()

    await bus.publish(EVENT)
    assert not many.done()
    await many

    assert server.served == 501
    assert server.most <= REQUESTS // 2 + 1


async def test_gathered_sends_are_all_accepted() -> None:
    server = Busy(REQUESTS)
    bus = bus_on(server)

    await all_of([bus.send(LetterCompleted(), to=Posted, triggering_event_id="1") for _ in range(1000)])

    assert (server.served, server.most) == (1000, REQUESTS)


async def test_a_publish_cancelled_while_it_queues_releases_its_slot() -> None:
    server = Busy(REQUESTS)
    bus = bus_on(server)
    publishing = [asyncio.create_task(bus.publish(EVENT)) for _ in range(1000)]
    await server.has_served.wait()

    cancelled = publishing[50::3]
    for task in cancelled:
        task.cancel()
    results = await asyncio.wait_for(asyncio.gather(*publishing, return_exceptions=True), 60)

    kinds = {type(result) for task, result in zip(publishing, results, strict=True) if task not in cancelled}
    assert kinds == {list}
    await all_of([bus.publish(EVENT) for _ in range(REQUESTS * 2)])
    assert server.most == REQUESTS


async def test_long_polls_give_their_slots_to_queued_requests() -> None:
    server = Busy(REQUESTS)
    bus = EventBus(cast(Client, server), Catalog.of(orchestrators=[Posted]))
    endless = [asyncio.create_task(bus.saga(Posted, f"{number}").outcome()) for number in range(LONG_POLLS + 50)]
    await server.is_full.wait()

    ended = await asyncio.wait_for(bus.saga(Posted, "this-ends").outcome(), 30)

    assert ended.phase is Phase.COMPLETED
    assert server.most == LONG_POLLS
    for task in endless:
        task.cancel()
    await asyncio.gather(*endless, return_exceptions=True)


async def test_thousands_of_waits_for_outcomes_are_cancelled_without_affecting_another(
    database: Database,
) -> None:
    outcomes = RecordedOutcomes(DatabaseLookup(Databases.of(database)))
    waits = [asyncio.create_task(outcomes.of(uuid4())) for _ in range(3000)]
    kept = asyncio.create_task(outcomes.of(uuid4()))
    await asyncio.sleep(0)

    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)

    assert not kept.done()
    await outcomes.close()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(kept, 10)


async def test_concurrent_lookups_share_a_small_connection_pool(database: Database) -> None:
    small = Database(database.url.render_as_string(hide_password=False), pool_size=2)
    outcomes = RecordedOutcomes(DatabaseLookup(Databases.of(small)))

    async with asyncio.timeout(120):
        rows = await asyncio.gather(*(outcomes.entry_of(uuid4()) for _ in range(300)))

    assert set(rows) == {None}
    await small.close()
