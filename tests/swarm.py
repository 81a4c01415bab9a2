"""Orchestrators whose sagas live in partitions, with events of their own."""

from datetime import timedelta

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
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
    change: str = ""
    """What the next version of the code changes: see `tests.swarm_next`."""


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


class LoneRequested(DomainEvent):
    """Move coins from a box to another, each in an execution of its own."""

    source: str
    target: str
    coins: int
    change: str = ""


class LoneCompleted(DomainEvent):
    """Moved."""

    coins: int


class LoneFailed(FailureEvent):
    """Not moved."""


class Lone(Orchestrator[LoneRequested, LoneCompleted, LoneFailed]):
    """The same steps without partitions."""

    async def handle(self, event: LoneRequested, saga: Saga) -> LoneCompleted:
        """Take, put, note."""
        taken = await saga.execute(take(event.source, event.coins))
        await saga.execute(put(event.target, event.coins))
        await saga.execute(write_note(f"moved {event.coins}"))
        return LoneCompleted(coins=taken)


CATALOG = Catalog.of(orchestrators=[Swarm, Lone], operations=[cast.take, cast.put, cast.write_note, cast.count])
EVENT = SwarmRequested(source="a", target="b", coins=1)
