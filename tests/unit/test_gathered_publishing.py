"""Concurrent callers that publish or wait do not affect each other, and none of them waits for ever."""

import asyncio
from typing import Any, cast
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator import EventRejected, Orchestrator, Saga
from orchestrator.client import EventBus, bus
from orchestrator.client.executions.own_execution import OwnExecution
from orchestrator.client.outcomes.lookup import DatabaseLookup
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.client.publishing.partitions import PartitionSender
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.protocol.messages.envelope import Envelope, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from tests import cast as tests_cast
from tests.swarm import EVENT, Swarm, SwarmCompleted, SwarmFailed, SwarmRequested

SWARM = SwarmRequested(source="a", target="b", coins=1, key="k")


class Aside(Orchestrator[SwarmRequested, SwarmCompleted, SwarmFailed]):
    """Listens to the same event, in its own executions."""

    async def handle(self, event: SwarmRequested, saga: Saga) -> SwarmCompleted:
        """Complete at once."""
        return SwarmCompleted(coins=event.coins)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The event ids in each signal that was sent."""
    sent: list[list[str]] = []

    async def signal(_: PartitionSender, _orchestrator: str, _workflow_id: str, envelopes: list[Envelope]) -> str:
        sent.append([envelope.event_id for envelope in envelopes])
        return "run"

    monkeypatch.setattr(PartitionSender, "signal", signal)
    return sent


def envelope(event_id: str) -> Envelope:
    return wrap(EVENT, event_id=event_id, source="test")


async def test_a_cancelled_sender_leaves_no_caller_waiting_and_sends_the_next_event(
    signals: list[list[str]],
) -> None:
    sender = PartitionSender(cast(Client, None), "queue")
    before = asyncio.all_tasks()
    first = asyncio.create_task(sender.send("Swarm", "p", envelope("1")))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - before - {first}:
        task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(first, 10)

    assert await asyncio.wait_for(sender.send("Swarm", "p", envelope("2")), 10) == "run"
    assert signals == [["2"]]


async def test_cancelling_one_caller_does_not_lose_the_events_of_others(signals: list[list[str]]) -> None:
    sender = PartitionSender(cast(Client, None), "queue")
    callers = [asyncio.create_task(sender.send("Swarm", "p", envelope(str(number)))) for number in range(3)]
    await asyncio.sleep(0)
    callers[1].cancel()

    assert await callers[0] == await callers[2] == "run"
    assert signals == [["0", "1", "2"]]


async def test_published_events_keep_their_order_although_another_listener_is_slow(
    signals: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = iter(range(20, 0, -1))

    async def ensure(_client: Any, name: str, envelope: Envelope, _task_queue: str) -> OwnExecution:
        for _ in range(next(delays)):
            await asyncio.sleep(0)
        return OwnExecution(f"{name}/event/{envelope.event_id}", "run", started=True)

    monkeypatch.setattr(bus, "ensure_own_execution", ensure)
    catalog = Catalog.of(
        orchestrators=[Aside, Swarm], operations=[tests_cast.take, tests_cast.put, tests_cast.write_note]
    )
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")
    ids = [str(number) for number in range(20)]

    await EventBus(cast(Client, None), catalog).publish_many([keyed] * 20, event_ids=ids)

    assert [event_id for signal in signals for event_id in signal] == ids


@pytest.mark.parametrize("has_asked", [True, False], ids=["during a lookup", "before the first lookup"])
async def test_a_caller_that_waits_for_an_outcome_is_cancelled_when_the_bus_is_closed(
    database: Database, has_asked: bool
) -> None:
    asked = asyncio.Event()

    class Source(DatabaseLookup):
        async def ask(self, lookup: Lookup) -> LookupReply:
            asked.set()
            return await super().ask(lookup)

    outcomes = RecordedOutcomes(Source(Databases.of(database)))
    waiting = asyncio.create_task(outcomes.of(uuid4()))
    await (asked.wait() if has_asked else asyncio.sleep(0))

    await outcomes.close()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("event_id", ["", " "])
async def test_an_empty_event_id_is_refused_and_not_replaced(event_id: str) -> None:
    publisher = EventBus(cast(Client, None), Catalog.of(orchestrators=[Aside]))

    for publishing in (
        publisher.publish(SWARM, event_id=event_id),
        publisher.execute(Aside, SWARM, event_id=event_id),
        publisher.publish_many([SWARM], event_ids=[event_id]),
    ):
        with pytest.raises(EventRejected, match="not an event id") as refused:
            await publishing
        assert refused.value.code == "event.invalid_id"


async def test_an_event_without_a_source_is_refused() -> None:
    with pytest.raises(EventRejected, match="source: is empty"):
        await EventBus(cast(Client, None), Catalog.of(orchestrators=[Aside]), source="").publish(SWARM)
