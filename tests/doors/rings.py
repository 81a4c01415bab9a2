"""The orchestrators behind the doors: one in executions of its own, one in partitions."""

from typing import Annotated

from pydantic import Field

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.event import Contract
from tests.doors.marks import check, make


class Detail(Contract):
    """Something nested."""

    text: Annotated[str, Field(max_length=1_000)]
    number: int


class OwnRingRequested(DomainEvent):
    """Leave a mark, in an execution of its own."""

    number: int
    detail: Detail
    refuse: bool = False


class OwnRingCompleted(DomainEvent):
    """Left."""

    number: int


class OwnRingFailed(FailureEvent):
    """Not left."""


class OwnRing(Orchestrator[OwnRingRequested, OwnRingCompleted, OwnRingFailed]):
    """Two marks, taken back where it is refused."""

    async def handle(self, event: OwnRingRequested, saga: Saga) -> OwnRingCompleted:
        """Mark twice, check."""
        await saga.execute_batch(make("first"), make("second"))
        await saga.execute(check(event.refuse))
        return OwnRingCompleted(number=event.number)


class PooledRingRequested(DomainEvent):
    """Leave a mark, in a partition."""

    number: int
    detail: Detail
    refuse: bool = False


class PooledRingCompleted(DomainEvent):
    """Left."""

    number: int


class PooledRingFailed(FailureEvent):
    """Not left."""


class PooledRing(Orchestrator[PooledRingRequested, PooledRingCompleted, PooledRingFailed]):
    """The same in partitions."""

    partitions = 4

    async def handle(self, event: PooledRingRequested, saga: Saga) -> PooledRingCompleted:
        """Mark twice, check."""
        await saga.execute_batch(make("first"), make("second"))
        await saga.execute(check(event.refuse))
        return PooledRingCompleted(number=event.number)
