"""A driver's `Steps` in a wave, which call the database directly and make only two attempts.

A step that keeps failing or takes long does not belong in a wave. The saga is postponed, or gets its own execution.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Self, TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.drive.steps import StepFailed
from orchestrator.errors import AuthorsMistake, Unreachable
from orchestrator.event import DomainEvent
from orchestrator.external import ExternalOperation
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    Blocked,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    MarkStuckCommand,
    StepCommand,
    StepReply,
    UndoCommand,
    UndoReply,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.envelope import Envelope
from orchestrator.protocol.wave import PostponeReason
from orchestrator.store.connections.errors import condition_of, sqlstate
from orchestrator.store.core.database import Database
from orchestrator.store.core.error_text import error_text
from orchestrator.store.locks import Waker
from orchestrator.store.saga.finish import finish_sagas
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.partition.group_commit import StepGroups

R = TypeVar("R")

_TRIES = 2
_PAUSE = 0.03
"""Seconds between the two attempts."""
_FINISH_GROUP = 20
"""The maximum number of sagas that one transaction finishes."""
_GATHERED = 0.003
"""Seconds that the first saga to finish waits for others, if `_MANY` others are being driven."""
_MANY = 4


class Postponed(Exception):
    """The saga is postponed to a later wave."""

    def __init__(self, why: PostponeReason, cause: Exception | None = None) -> None:
        self.why = why
        super().__init__(f"{why.value}: {error_text(cause)}" if cause is not None else why.value)


class NeedsOwn(Exception):
    """The saga needs its own execution, because it waits or calls an external operation."""


def is_lost(fault: BaseException) -> bool:
    """Whether an error means that the database itself is unusable, rather than that a saga failed."""
    if not isinstance(fault, DBAPIError):
        return isinstance(fault, OSError | PoolTimeout | Unreachable)
    return (
        condition_of(fault).is_outage
        or fault.connection_invalidated
        # An `InterfaceError` has no SQLSTATE, because the database driver itself raises it for an unusable connection.
        or isinstance(fault, InterfaceError)
        or (isinstance(fault, OperationalError) and sqlstate(fault) is None)
    )


class FinishGroups:
    """Finishes sagas in groups. While one transaction runs, further sagas that finish queue for the next one.

    Args:
        steps: the steps' port to the databases.
        waker: called with the sagas that may have acquired a lock.
        under_way: returns how many sagas are being driven, including those that are finishing.
    """

    def __init__(self, steps: StoreSteps, waker: Waker, under_way: Callable[[], int] = lambda: 0) -> None:
        self._waker = waker
        self._under_way = under_way
        self._database: Database = steps.database
        self._catalog = steps.catalog
        self._queue: list[tuple[FinishCommand, asyncio.Future[FinishReply]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write a saga's outcome, in one transaction with other outcomes.

        Raises:
            Exception: the outcome could not be written.
        """
        reply: asyncio.Future[FinishReply] = asyncio.get_running_loop().create_future()
        self._queue.append((command, reply))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await reply

    async def _write(self) -> None:
        try:
            while self._queue:
                if self._under_way() - len(self._queue) >= _MANY:
                    await asyncio.sleep(_GATHERED)
                group = self._queue[:_FINISH_GROUP]
                del self._queue[:_FINISH_GROUP]
                await self._write_group(group)
        finally:
            self._writing = None

    async def _write_group(self, group: list[tuple[FinishCommand, "asyncio.Future[FinishReply]"]]) -> None:
        results: Sequence[FinishReply | Exception]
        try:
            commands = [command for command, _ in group]
            results = await finish_sagas(self._database, self._catalog, commands, self._waker)
        except Exception as fault:
            if len(group) > 1 and not is_lost(fault):
                # A single saga may make the whole group fail.
                for item in group:
                    await self._write_group([item])
                return
            results = [fault for _ in group]
        for (_, reply), result in zip(group, results, strict=True):
            if reply.done():
                continue
            if isinstance(result, Exception):
                reply.set_exception(result)
            else:
                reply.set_result(result)


class DriveSlot:
    """A slot for one saga that is being driven. It is free for the next saga while this one's outcome is written.

    Args:
        slots: limits how many sagas are driven at the same time.
    """

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._is_taken = False

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        self._is_taken = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.free()

    def free(self) -> None:
        """Free the slot for another saga."""
        if self._is_taken:
            self._is_taken = False
            self._slots.release()


class WaveSteps:
    """Implements `Steps` for one saga of a wave.

    Args:
        store: the steps' port to the databases.
        finish_groups: finishes the wave's sagas in groups.
        step_groups: runs the wave's steps in groups.
        is_over: returns whether the wave's time is over, so that no further step may begin.
        slot: the saga's slot among those that are driven at the same time.
    """

    def __init__(
        self,
        store: StoreSteps,
        finish_groups: FinishGroups,
        step_groups: StepGroups,
        is_over: Callable[[], bool],
        slot: DriveSlot,
    ) -> None:
        self._store = store
        self._step_groups = step_groups
        self._slot = slot
        self._finish_groups = finish_groups
        self._is_over = is_over

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step.

        Raises:
            StepFailed: the author's code has a mistake.
            NeedsOwn: the operation is external.
            Postponed: the step cannot run now.
        """
        if isinstance(self._store.catalog.operation(command.operation), ExternalOperation):
            raise NeedsOwn
        if self._is_over():
            raise Postponed(PostponeReason.SLOW)
        try:
            reply = await self._step_groups.run(command)
            if reply is not None:
                return reply
            return await self._retried(lambda attempt: self._store.run(command, deadline, attempt=attempt))
        except AuthorsMistake as mistake:
            if command.past_pivot:
                raise Postponed(PostponeReason.FAILED, mistake) from mistake
            raise StepFailed(f"step {command.number}, {command.shown}: {error_text(mistake)}") from mistake

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Postpone the saga, because a wave waits for a saga's locks only before it drives the saga."""
        raise Postponed(PostponeReason.BLOCKED)

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Leave the wave, because only an own execution can wait."""
        raise NeedsOwn

    async def pause(self, number: int, seconds: float) -> None:
        """Leave the wave, because only an own execution can wait."""
        raise NeedsOwn

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Leave the wave, because only an own execution can wait."""
        raise NeedsOwn

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Do nothing, because no saga of a wave receives events."""

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Leave the wave, because only an own execution can wait."""
        raise NeedsOwn

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Begin the undo."""
        return await self._retried(lambda _: self._store.begin_undo(command))

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step.

        Raises:
            NeedsOwn: the operation is external.
            Postponed: the step cannot be undone now. The saga's own execution would retry until it succeeds.
        """
        if isinstance(self._store.catalog.operation(command.operation), ExternalOperation):
            raise NeedsOwn
        return await self._retried(lambda _: self._store.undo(command, compensation))

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        self._slot.free()
        return await self._retried(lambda _: self._finish_groups.finish(command))

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Mark the saga as stuck, because it needs a person."""
        await self._retried(lambda _: self._store.mark_stuck(command))

    async def _retried(self, attempt: Callable[[int], Awaitable[R]]) -> R:
        number = 1
        while True:
            try:
                return await attempt(number)
            except AuthorsMistake:
                raise
            except Exception as fault:
                if is_lost(fault):
                    raise Postponed(PostponeReason.LOST, fault) from fault
                if number == _TRIES:
                    raise Postponed(PostponeReason.FAILED, fault) from fault
            number += 1
            await asyncio.sleep(_PAUSE)
