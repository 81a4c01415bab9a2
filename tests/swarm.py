"""Orchestrators whose sagas live in partitions, with events of their own."""

from datetime import timedelta

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.catalog import Catalog
from tests import cast
from tests.cast import Plan, put, take, write_note


class SwarmRequested(DomainEvent):
    """Move coins from a box to another, as one of many."""

    source: str
    target: str
    coins: int
    key: str | None = None
    nap: bool = False
    bug: bool = False


class SwarmCompleted(DomainEvent):
    """Moved."""

    coins: int


class SwarmFailed(FailureEvent):
    """Not moved."""


class Swarm(Orchestrator[SwarmRequested, SwarmCompleted, SwarmFailed]):
    """Three steps that can be undone, in two partitions."""

    partitions = 2

    def ordering_key(self, event: SwarmRequested) -> str | None:
        """The event's own."""
        return event.key

    async def handle(self, event: SwarmRequested, saga: Saga) -> SwarmCompleted:
        """Take, put, note."""
        taken = await saga.execute(take(event.source, event.coins))
        if event.nap:
            await saga.sleep(timedelta(milliseconds=10))
        if event.bug and Plan.has_bug:
            raise KeyError("a bug in handle")
        await saga.execute(put(event.target, event.coins))
        await saga.execute(write_note(f"moved {event.coins}"))
        return SwarmCompleted(coins=taken)


CATALOG = Catalog.of(orchestrators=[Swarm], operations=[cast.take, cast.put, cast.write_note])
EVENT = SwarmRequested(source="a", target="b", coins=1)
