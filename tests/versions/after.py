"""Version 2 of the contracts: coins have a colour."""

from typing import Self

from orchestrator import Contract, DomainEvent, FailureEvent, Fields, Orchestrator, Saga, upcaster
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.cast import put, take


class Coins(Contract):
    """A number of coins of one colour."""

    count: int
    colour: str


class CrateMoveRequested(DomainEvent):
    """Move coins from one box to another."""

    version = 2

    source: str
    target: str
    coins: Coins

    @classmethod
    def example(cls) -> Self:
        """One coin."""
        return cls(source="a", target="b", coins=Coins(count=1, colour="gold"))

    @staticmethod
    @upcaster(1)
    def _coins_were_gold(fields: Fields) -> Fields:
        return {**fields, "coins": {"count": fields["coins"], "colour": "gold"}}


class CrateMoveCompleted(DomainEvent):
    """The coins have been moved."""

    version = 2

    coins: Coins

    @staticmethod
    @upcaster(1)
    def _coins_were_gold(fields: Fields) -> Fields:
        return {"coins": {"count": fields["coins"], "colour": "gold"}}


class CrateMoveFailed(FailureEvent):
    """The coins were not moved."""


class CrateMove(Orchestrator[CrateMoveRequested, CrateMoveCompleted, CrateMoveFailed]):
    """Moves coins, each saga in its own execution."""

    async def handle(self, event: CrateMoveRequested, saga: Saga) -> CrateMoveCompleted:
        """Take the coins and put them."""
        await saga.execute_all(take(event.source, event.coins.count), put(event.target, event.coins.count))
        return CrateMoveCompleted(coins=event.coins)


class CrateSwarm(Orchestrator[CrateMoveRequested, CrateMoveCompleted, CrateMoveFailed]):
    """Moves coins in partitions."""

    partitions = 2

    async def handle(self, event: CrateMoveRequested, saga: Saga) -> CrateMoveCompleted:
        """Take the coins and put them."""
        await saga.execute_all(take(event.source, event.coins.count), put(event.target, event.coins.count))
        return CrateMoveCompleted(coins=event.coins)


CATALOG = Catalog.of(orchestrators=[CrateMove, CrateSwarm], operations=[cast.take, cast.put])
