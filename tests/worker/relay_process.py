"""An orchestrator that records its events, and a relay process that a test can kill."""

import asyncio
import os
import random
import sys
from datetime import timedelta

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.worker.relay.delivery import Delivery
from orchestrator.worker.relay.limits import RelayLimits
from orchestrator.worker.relay.relay import relaying
from tests import cast
from tests.cast import write_note


class HeardRequested(DomainEvent):
    """One of many events, perhaps with an ordering key."""

    number: int
    key: str | None = None


class HeardCompleted(DomainEvent):
    """The event has been recorded."""


class HeardFailed(FailureEvent):
    """The event was not recorded."""


class Heard(Orchestrator[HeardRequested, HeardCompleted, HeardFailed]):
    """Records each event in a note; events of one key are handled in order."""

    partitions = 2

    def ordering_key(self, event: HeardRequested) -> str | None:
        """The key in the event."""
        return event.key

    async def handle(self, event: HeardRequested, saga: Saga) -> HeardCompleted:
        """Write a note with the event's number."""
        await saga.execute(write_note(str(event.number)))
        return HeardCompleted()


CATALOG = Catalog.of(orchestrators=[Heard], operations=[cast.write_note])


async def relay() -> None:
    """Wait for a line on stdin, then run a relay until killed; append each delivered event id to a file."""
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], data_converter=pydantic_data_converter)
    delivery = Delivery(client, os.environ["TASK_QUEUE"])
    lines = os.open(os.environ["DELIVERED"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    async def deliver(listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope, /) -> None:
        # Slow enough to be killed before the event is sent, and before its row is marked.
        await asyncio.sleep(random.uniform(0, 0.3))
        await delivery(listener, event, envelope)
        os.write(lines, f"{envelope.event_id}\n".encode())
        await asyncio.sleep(random.uniform(0, 0.3))

    # Small claims with short leases, so that a kill hits many of them and they are soon claimed again.
    limits = RelayLimits(
        at_once=4,
        lease=timedelta(seconds=3),
        soft=timedelta(seconds=1),
        patience=timedelta(seconds=2),
        last_look=timedelta(milliseconds=100),
    )
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with relaying(Databases(Database(os.environ["DATABASE_URL"])), CATALOG, deliver, limits=limits):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(relay())
