"""The saga as `handle` sees it: run operations, and remember how to undo them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar, overload
from uuid import UUID, uuid5

from orchestrator.definition.atomic import Atomically
from orchestrator.event import DomainEvent
from orchestrator.operation import PIVOT, OperationCall

R = TypeVar("R")
Awaited = TypeVar("Awaited", bound=DomainEvent)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


class Saga(ABC):
    """One event being handled. `handle` takes everything that changes from here: ids, time, chance, and steps.

    Attributes:
        event_id: the event's id.
        event_time: when the event happened, in UTC. There is no clock in `handle`: it must give the same again.
        random: a source of chance, the same on every attempt.
    """

    def __init__(self, *, saga_id: UUID, event_id: str, event_time: datetime) -> None:
        self.saga_id = saga_id
        self.event_id = event_id
        self.event_time = event_time
        self.random = Random(saga_id.int)  # noqa: S311 - repeatable chance is the point
        self._drawn = 0

    def uuid(self) -> UUID:
        """A new id, the same on every attempt: made from the saga and how many were drawn."""
        self._drawn += 1
        return uuid5(self.saga_id, f"handle/{self._drawn}")

    async def execute(self, call: OperationCall[R]) -> R:
        """Run one operation, and remember how to undo it.

        Its effect and the record that it was done are one transaction, so a worker that dies here leaves nothing
        half done; the same step run again returns the recorded result.

        Raises:
            Refused: the operation said no. Let it pass, and the saga is undone.
            UsageError: another step of this saga is running; see `execute_batch(..., parallel=True)`.
        """
        [result] = await self._run([call], parallel=False)
        return result  # type: ignore[no-any-return]

    @overload
    async def execute_batch(self, a: OperationCall[A], /, *, parallel: bool = ...) -> tuple[A]: ...
    @overload
    async def execute_batch(
        self, a: OperationCall[A], b: OperationCall[B], /, *, parallel: bool = ...
    ) -> tuple[A, B]: ...
    @overload
    async def execute_batch(
        self, a: OperationCall[A], b: OperationCall[B], c: OperationCall[C], /, *, parallel: bool = ...
    ) -> tuple[A, B, C]: ...
    @overload
    async def execute_batch(
        self,
        a: OperationCall[A],
        b: OperationCall[B],
        c: OperationCall[C],
        d: OperationCall[D],
        /,
        *,
        parallel: bool = ...,
    ) -> tuple[A, B, C, D]: ...
    @overload
    async def execute_batch(
        self,
        a: OperationCall[A],
        b: OperationCall[B],
        c: OperationCall[C],
        d: OperationCall[D],
        e: OperationCall[E],
        /,
        *,
        parallel: bool = ...,
    ) -> tuple[A, B, C, D, E]: ...
    async def execute_batch(self, *calls: OperationCall[Any], parallel: bool = False) -> tuple[Any, ...]:
        """Run one to five operations in order, each its own step; the saga is undone if one of them says no.

        Args:
            calls: the steps, in saga order.
            parallel: run them at once. They are undone one by one, in reverse order, all the same.

        Returns:
            The results, in the order of the calls.

        Raises:
            Refused: an operation said no. With `parallel`, the first in saga order, after all have ended.
        """
        return tuple(await self._run(calls, parallel=parallel))

    async def execute_all(self, calls: Sequence[OperationCall[R]], *, parallel: bool = False) -> list[R]:
        """Run any number of operations of one result type, as `execute_batch` does."""
        return await self._run(calls, parallel=parallel)

    @overload
    async def execute_atomically(self, a: OperationCall[A], /) -> tuple[A]: ...
    @overload
    async def execute_atomically(self, a: OperationCall[A], b: OperationCall[B], /) -> tuple[A, B]: ...
    @overload
    async def execute_atomically(
        self, a: OperationCall[A], b: OperationCall[B], c: OperationCall[C], /
    ) -> tuple[A, B, C]: ...
    @overload
    async def execute_atomically(
        self, a: OperationCall[A], b: OperationCall[B], c: OperationCall[C], d: OperationCall[D], /
    ) -> tuple[A, B, C, D]: ...
    @overload
    async def execute_atomically(
        self, a: OperationCall[A], b: OperationCall[B], c: OperationCall[C], d: OperationCall[D], e: OperationCall[E], /
    ) -> tuple[A, B, C, D, E]: ...
    async def execute_atomically(self, *calls: OperationCall[Any]) -> tuple[Any, ...]:
        """Run one to five operations in order as one step: one transaction, one record, one undo.

        All of them are done, or none. Undone, they are undone together in one transaction, the last first. Operations
        and queries can be in it; with one that is irreversible the whole step is the pivot.

        Returns:
            The results, in the order of the calls.

        Raises:
            Refused: an operation said no, and nothing of the step stands.
            UsageError: one of them calls the outside world, or another step of this saga is running.
        """
        return await self._run_atomically(calls) if calls else ()

    async def execute_all_atomically(self, calls: Sequence[OperationCall[R]]) -> list[R]:
        """Run any number of operations of one result type as one step, as `execute_atomically` does."""
        return list(await self._run_atomically(calls)) if calls else []

    async def _run_atomically(self, calls: Sequence[OperationCall[Any]]) -> tuple[Any, ...]:
        [results] = await self._run([self._atomically(calls)], parallel=False)
        return results  # type: ignore[no-any-return]

    def _atomically(self, calls: Sequence[OperationCall[Any]]) -> Atomically:
        return Atomically(*calls)

    async def pivot(self) -> None:
        """The point of no return: what was done so far stands, and from here the saga only goes on, whatever happens.

        Steps after it are retriable operations and queries. A refusal there is a fault, and is tried again. An
        irreversible operation that is done is a pivot, too.
        """
        await self._run([PIVOT()], parallel=False)

    @abstractmethod
    async def sleep(self, duration: timedelta) -> None:
        """Wait, durably: it ends at the same moment, whoever drives the saga then. A cancel ends it at once.

        Raises:
            UsageError: another step of this saga is running.
        """

    @abstractmethod
    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Wait for an event that is sent to this saga with `EventBus.send`, also one that came earlier.

        Args:
            event: its class, one that the orchestrator names in `awaited`.
            matching: whether it is the one; by default the first is. It reads nothing but the event.
            timeout: how long to wait at most.

        Returns:
            The event, or None if none came in time. Either is recorded, so it is the same on every attempt.

        Raises:
            UsageError: the orchestrator does not name the event in `awaited`, or another step is running.
        """

    @abstractmethod
    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        """Run steps, numbered in the order given."""
