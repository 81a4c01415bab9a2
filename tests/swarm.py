"""Orchestrators whose sagas are driven in partitions, with their events."""

from datetime import timedelta

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.cast import Plan, put, take, write_note


class SwarmRequested(DomainEvent):
    """Asks to move coins from one box to another, in a partition."""

    source: str
    target: str
    coins: int
    key: str | None = None
    nap: bool = False
    bug: bool = False
    change: str = ""
    """How the next version of the code changes the steps: see `tests.swarm_next`."""


class SwarmCompleted(DomainEvent):
    """The coins have been moved."""

    coins: int


class SwarmFailed(FailureEvent):
    """The coins have not been moved."""


class Swarm(Orchestrator[SwarmRequested, SwarmCompleted, SwarmFailed]):
    """Three steps that can be undone, in two partitions."""

    partitions = 2

    def ordering_key(self, event: SwarmRequested) -> str | None:
        """The event's key."""
        return event.key

    async def handle(self, event: SwarmRequested, saga: Saga) -> SwarmCompleted:
        coins = await saga.execute(take(event.source, event.coins))
        if event.nap:
            await saga.sleep(timedelta(milliseconds=10))
        if event.bug and Plan.has_bug:
            raise KeyError("a bug in handle")
        await saga.execute(put(event.target, event.coins))
        await saga.execute(write_note(f"moved {event.coins}"))
        return SwarmCompleted(coins=coins)


class LoneRequested(DomainEvent):
    """Asks to move coins from one box to another, in an execution of the saga's own."""

    source: str
    target: str
    coins: int
    change: str = ""


class LoneCompleted(DomainEvent):
    """The coins have been moved."""

    coins: int


class LoneFailed(FailureEvent):
    """The coins have not been moved."""


class Lone(Orchestrator[LoneRequested, LoneCompleted, LoneFailed]):
    """Runs the same steps in the saga's own execution."""

    async def handle(self, event: LoneRequested, saga: Saga) -> LoneCompleted:
        coins = await saga.execute(take(event.source, event.coins))
        await saga.execute(put(event.target, event.coins))
        await saga.execute(write_note(f"moved {event.coins}"))
        return LoneCompleted(coins=coins)


CATALOG = Catalog.of(orchestrators=[Swarm, Lone], operations=[cast.take, cast.put, cast.write_note, cast.count])
EVENT = SwarmRequested(source="a", target="b", coins=1)
