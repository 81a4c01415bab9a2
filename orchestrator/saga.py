"""The saga that `handle` receives: it runs operations and remembers how to undo them."""

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
    """One event that is being handled, and the source of everything that varies: ids, time, randomness, and steps.

    Attributes:
        event_id: the event's id.
        event_time: when the event happened, in UTC. `handle` must not read a clock, because a later run must do the
            same.
        random: a random number generator that is the same on every attempt.
    """

    def __init__(self, *, saga_id: UUID, event_id: str, event_time: datetime) -> None:
        self.saga_id = saga_id
        self.event_id = event_id
        self.event_time = event_time
        self.random = Random(saga_id.int)  # noqa: S311 - repeatable randomness is the point
        self._drawn = 0

    def uuid(self) -> UUID:
        """Return a new id that is the same on every attempt. It is derived from the saga and a counter."""
        self._drawn += 1
        return uuid5(self.saga_id, f"handle/{self._drawn}")

    async def execute(self, call: OperationCall[R]) -> R:
        """Run one operation as a step, and remember how to undo it.

        The effect and its record are one transaction, so a worker that dies here leaves nothing half done. If the step
        runs again, it returns the recorded result.

        Raises:
            Refused: the operation refused. If `handle` lets this pass, the saga is undone.
            UsageError: another step of this saga is running; see `execute_all(..., parallel=True)`.
        """
        [result] = await self._run([call], parallel=False)
        return result  # type: ignore[no-any-return]

    @overload
    async def execute_all(self, a: OperationCall[A], /, *, parallel: bool = ...) -> tuple[A]: ...
    @overload
    async def execute_all(
        self, a: OperationCall[A], b: OperationCall[B], /, *, parallel: bool = ...
    ) -> tuple[A, B]: ...
    @overload
    async def execute_all(
        self, a: OperationCall[A], b: OperationCall[B], c: OperationCall[C], /, *, parallel: bool = ...
    ) -> tuple[A, B, C]: ...
    @overload
    async def execute_all(
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
    async def execute_all(
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
    @overload
    async def execute_all(
        self, first: OperationCall[R], /, *others: OperationCall[R], parallel: bool = ...
    ) -> tuple[R, ...]: ...
    async def execute_all(self, *calls: OperationCall[Any], parallel: bool = False) -> tuple[Any, ...]:
        """Run operations in order, each as its own step in its own transaction.

        Args:
            calls: the steps, in saga order; a list of them is passed as `*calls`. With up to five calls, each result
                has its own type; with more, all results have one common type.
            parallel: whether to run them concurrently. They are nevertheless undone one by one, in reverse order.

        Returns:
            The results, in the order of the calls.

        Raises:
            Refused: an operation refused. With `parallel`, the first one in saga order, after all steps have ended.
        """
        return tuple(await self._run(calls, parallel=parallel))

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
    @overload
    async def execute_atomically(self, first: OperationCall[R], /, *others: OperationCall[R]) -> tuple[R, ...]: ...
    async def execute_atomically(self, *calls: OperationCall[Any]) -> tuple[Any, ...]:
        """Run operations in order as one step: one transaction, one record, one undo.

        Either all of them are done, or none. Their compensations also run in one transaction, the last one first.
        Operations and queries are allowed. If one operation is irreversible, the whole step is the pivot.

        Args:
            calls: the operations, in order; as in `execute_all`.

        Returns:
            The results, in the order of the calls.

        Raises:
            Refused: an operation refused, and the whole step is rolled back.
            UsageError: one of them is an external operation, or another step of this saga is running.
        """
        return await self._run_atomically(calls) if calls else ()

    async def _run_atomically(self, calls: Sequence[OperationCall[Any]]) -> tuple[Any, ...]:
        [results] = await self._run([self._atomically(calls)], parallel=False)
        return results  # type: ignore[no-any-return]

    def _atomically(self, calls: Sequence[OperationCall[Any]]) -> Atomically:
        return Atomically(*calls)

    async def pivot(self) -> None:
        """Pass the point of no return: completed steps are never undone, and the saga always continues to its end.

        Only retriable operations and queries may follow. A refusal there counts as a failure and is retried. A
        completed irreversible operation is a pivot as well.
        """
        await self._run([PIVOT()], parallel=False)

    @abstractmethod
    async def sleep(self, duration: timedelta) -> None:
        """Sleep durably: the sleep ends at the same time even if another driver takes over. Cancellation ends it early.

        Raises:
            UsageError: another step of this saga is running.
        """

    @abstractmethod
    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Wait for an event that is sent to this saga with `EventBus.send`. It may have arrived earlier.

        Args:
            event: the event's class, which the orchestrator must declare in `awaited`.
            matching: whether an event is the right one; by default, the first event is. It must read only the event.
            timeout: the longest time to wait.

        Returns:
            The event, or None after the timeout. The result is recorded, so it is the same on every attempt.

        Raises:
            UsageError: the orchestrator does not declare the event in `awaited`, or another step is running.
        """

    @abstractmethod
    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        """Run steps, numbered in the order of the calls."""
