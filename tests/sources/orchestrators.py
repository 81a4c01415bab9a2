"""The orchestrators that receive the messages: one drives each saga in its own execution, one in partitions."""

from typing import Annotated

from pydantic import Field

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.event import Contract
from tests.sources.marks import check, make


class Detail(Contract):
    """A nested contract."""

    text: Annotated[str, Field(max_length=1_000)]
    number: int


class OwnMarkRequested(DomainEvent):
    """Asks for two marks; the saga has its own execution."""

    number: int
    detail: Detail
    refuse: bool = False


class OwnMarkCompleted(DomainEvent):
    """The two marks have been made."""

    number: int


class OwnMarkFailed(FailureEvent):
    """The marks were refused."""


class OwnMark(Orchestrator[OwnMarkRequested, OwnMarkCompleted, OwnMarkFailed]):
    """Makes two marks, which are undone if the event asks for a refusal."""

    async def handle(self, event: OwnMarkRequested, saga: Saga) -> OwnMarkCompleted:
        """Make the marks, then check."""
        await saga.execute_all(make("first"), make("second"))
        await saga.execute(check(event.refuse))
        return OwnMarkCompleted(number=event.number)


class PooledMarkRequested(DomainEvent):
    """Asks for two marks; the saga is driven in a partition."""

    number: int
    detail: Detail
    refuse: bool = False


class PooledMarkCompleted(DomainEvent):
    """The two marks have been made."""

    number: int


class PooledMarkFailed(FailureEvent):
    """The marks were refused."""


class PooledMark(Orchestrator[PooledMarkRequested, PooledMarkCompleted, PooledMarkFailed]):
    """Does the same as `OwnMark`, in partitions."""

    partitions = 4

    async def handle(self, event: PooledMarkRequested, saga: Saga) -> PooledMarkCompleted:
        """Make the marks, then check."""
        await saga.execute_all(make("first"), make("second"))
        await saga.execute(check(event.refuse))
        return PooledMarkCompleted(number=event.number)
