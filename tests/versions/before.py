"""Version 1 of the contracts."""

from typing import Self

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.cast import put, take


class CrateMoveRequested(DomainEvent):
    """Move coins from one box to another."""

    source: str
    target: str
    coins: int

    @classmethod
    def example(cls) -> Self:
        """One coin."""
        return cls(source="a", target="b", coins=1)


class CrateMoveCompleted(DomainEvent):
    """The coins have been moved."""

    coins: int


class CrateMoveFailed(FailureEvent):
    """The coins were not moved."""


class CrateMove(Orchestrator[CrateMoveRequested, CrateMoveCompleted, CrateMoveFailed]):
    """Moves coins, each saga in its own execution."""

    async def handle(self, event: CrateMoveRequested, saga: Saga) -> CrateMoveCompleted:
        """Take the coins and put them."""
        taken, _ = await saga.execute_all(take(event.source, event.coins), put(event.target, event.coins))
        return CrateMoveCompleted(coins=taken)


class CrateSwarm(Orchestrator[CrateMoveRequested, CrateMoveCompleted, CrateMoveFailed]):
    """Moves coins in partitions."""

    partitions = 2

    async def handle(self, event: CrateMoveRequested, saga: Saga) -> CrateMoveCompleted:
        """Take the coins and put them."""
        taken, _ = await saga.execute_all(take(event.source, event.coins), put(event.target, event.coins))
        return CrateMoveCompleted(coins=taken)


CATALOG = Catalog.of(orchestrators=[CrateMove, CrateSwarm], operations=[cast.take, cast.put])
