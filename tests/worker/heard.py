"""An orchestrator that writes down what it heard, and a process that is nothing but a relay, to be killed."""

import asyncio
import os
import random
import sys
from datetime import timedelta

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.protocol.envelope import Envelope
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.worker.relay.delivery import Delivery
from orchestrator.worker.relay.limits import RelayLimits
from orchestrator.worker.relay.relay import relaying
from tests import cast
from tests.cast import write_note


class HeardRequested(DomainEvent):
    """One of many, perhaps with others of its key."""

    number: int
    key: str | None = None


class HeardCompleted(DomainEvent):
    """It was written down."""


class HeardFailed(FailureEvent):
    """It was not written down."""


class Heard(Orchestrator[HeardRequested, HeardCompleted, HeardFailed]):
    """In partitions, those of a key in order."""

    partitions = 2

    def ordering_key(self, event: HeardRequested) -> str | None:
        """The event's own."""
        return event.key

    async def handle(self, event: HeardRequested, saga: Saga) -> HeardCompleted:
        """Write it down."""
        await saga.execute(write_note(str(event.number)))
        return HeardCompleted()


CATALOG = Catalog.of(orchestrators=[Heard], operations=[cast.write_note])


async def relay() -> None:
    """Be a relay once a line comes in, for good; each delivery that returned is a line in a file."""
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], data_converter=pydantic_data_converter)
    delivery = Delivery(client, os.environ["TASK_QUEUE"])
    lines = os.open(os.environ["DELIVERED"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    async def deliver(listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope, /) -> None:
        # So slow that there is time to die before it is sent, and before it is marked.
        await asyncio.sleep(random.uniform(0, 0.3))
        await delivery(listener, event, envelope)
        os.write(lines, f"{envelope.event_id}\n".encode())
        await asyncio.sleep(random.uniform(0, 0.3))

    # Small claims that run out soon, so that a kill hits many of them and is made good at once.
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
