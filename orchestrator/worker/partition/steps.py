"""A driver's `Steps` in a wave, which call the database directly and make only two attempts.

A step that keeps failing or takes long does not belong in a wave. The saga is postponed, or gets its own execution.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Self, TypeVar

from orchestrator.drive.steps import StepFailed
from orchestrator.errors import AuthorsMistake
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
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.wave import PostponeReason
from orchestrator.retry import DEFAULT_RETRY, WAVE_RETRY, Retry
from orchestrator.store.core.database import Database
from orchestrator.store.core.error_text import error_text
from orchestrator.store.locks import Waker
from orchestrator.store.saga.finish import finish_sagas
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.outages import is_lost, is_outage
from orchestrator.worker.partition.group_commit import StepGroups
from orchestrator.worker.step_retries import after_failure, undo_retry

R = TypeVar("R")

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
    """The saga needs its own execution, because it waits, calls an external operation, or has declared retries."""

    def __init__(self, why: str = "it waits, or calls an external operation") -> None:
        self.why = why
        super().__init__(why)


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
            StepFailed: the step failed and is not retried.
            NeedsOwn: the operation is external, or the step failed and its operation declares how it is retried.
            Postponed: the step cannot run now.
        """
        if isinstance(self._store.catalog.operation(command.operation), ExternalOperation):
            raise NeedsOwn
        if self._is_over():
            raise Postponed(PostponeReason.SLOW)
        reply = await self._step_groups.run(command)
        if reply is not None:
            return reply

        def decide(fault: Exception, attempt: int) -> None:
            self._decide_step(command, fault, attempt)

        return await self._retried(lambda attempt: self._store.run(command, deadline, attempt=attempt), decide)

    def _decide_step(self, command: StepCommand, fault: Exception, attempt: int) -> None:
        """End the attempts of a step, unless it is to be retried in this wave."""
        operation = self._store.catalog.called(command.operation, command.arguments)
        after = after_failure(operation, fault, attempt, past_pivot=command.past_pivot)
        name = f"step {command.number}, {command.shown}"
        if after.is_final:
            raise StepFailed(f"{name}: {error_text(fault)}{after.note}") from fault
        if isinstance(fault, AuthorsMistake):
            raise Postponed(PostponeReason.FAILED, fault) from fault
        _check_declared(operation.retry, name, fault)

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

        def decide(fault: Exception, attempt: int) -> None:
            _check_declared(undo_retry(self._store.catalog, command), f"undoing step {command.number}", fault)

        return await self._retried(lambda _: self._store.undo(command, compensation), decide)

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        self._slot.free()
        return await self._retried(lambda _: self._finish_groups.finish(command))

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Mark the saga as stuck, because it needs a person."""
        await self._retried(lambda _: self._store.mark_stuck(command))

    async def _retried(
        self, attempt: Callable[[int], Awaitable[R]], decide: Callable[[Exception, int], None] | None = None
    ) -> R:
        """Make an attempt, and repeat it after an error unless `decide` raises what the error leads to."""
        number = 1
        while True:
            try:
                return await attempt(number)
            except Exception as fault:
                if decide is not None:
                    decide(fault, number)
                if isinstance(fault, AuthorsMistake):
                    raise
                if is_lost(fault):
                    raise Postponed(PostponeReason.LOST, fault) from fault
                if number == WAVE_RETRY.attempts:
                    raise Postponed(PostponeReason.FAILED, fault) from fault
            await asyncio.sleep(WAVE_RETRY.wait_after(number).total_seconds())
            number += 1


def _check_declared(retry: Retry, what: str, fault: Exception) -> None:
    """Leave the wave after a failed attempt whose retries are declared, because only an own execution keeps them.

    Raises:
        NeedsOwn: the retries are declared, and the database is not the reason for the failure.
    """
    if retry != DEFAULT_RETRY and not is_outage(fault):
        raise NeedsOwn(f"{what}, failed and is retried as declared: {error_text(fault)}") from fault
