"""The driver's port in a wave: straight onto the database, few attempts; what takes long is not for a wave."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn, Self, TypeVar

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
_FINISHED_TOGETHER = 20
_GATHERED = 0.003
"""Seconds that the first one that ends waits for others, where many are under way."""
_MANY = 4


class Postponed(Exception):
    """The saga is to be taken again by a later wave."""

    def __init__(self, why: PostponeReason, cause: Exception | None = None) -> None:
        self.why = why
        super().__init__(f"{why.value}: {error_text(cause)}" if cause is not None else why.value)


class NeedsOwn(Exception):
    """The saga needs an execution of its own: it waits, or calls the outside."""


def is_lost(fault: BaseException) -> bool:
    """Whether the database is away or cannot be used at all, which is no saga's own fault."""
    if not isinstance(fault, DBAPIError):
        return isinstance(fault, OSError | PoolTimeout | Unreachable)
    return (
        condition_of(fault).is_outage
        or fault.connection_invalidated
        # An `InterfaceError` has no SQLSTATE: the driver itself found that the connection is unusable.
        or isinstance(fault, InterfaceError)
        or (isinstance(fault, OperationalError) and sqlstate(fault) is None)
    )


class Finishing:
    """Ends sagas together: while one transaction is under way, those that end meanwhile gather for the next.

    Args:
        steps: the database.
        waker: is told who may go on.
        under_way: how many sagas are driven just now, those that are being ended among them.
    """

    def __init__(self, steps: StoreSteps, waker: Waker, under_way: Callable[[], int] = lambda: 0) -> None:
        self._waker = waker
        self._under_way = under_way
        self._database: Database = steps.database
        self._catalog = steps.catalog
        self._gathered: list[tuple[FinishCommand, asyncio.Future[FinishReply]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write a saga's outcome, with those of others.

        Raises:
            Exception: it could not be written.
        """
        written: asyncio.Future[FinishReply] = asyncio.get_running_loop().create_future()
        self._gathered.append((command, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await written

    async def _write(self) -> None:
        try:
            while self._gathered:
                if self._under_way() - len(self._gathered) >= _MANY:
                    await asyncio.sleep(_GATHERED)
                together = self._gathered[:_FINISHED_TOGETHER]
                del self._gathered[:_FINISHED_TOGETHER]
                await self._write_together(together)
        finally:
            self._writing = None

    async def _write_together(self, together: list[tuple[FinishCommand, "asyncio.Future[FinishReply]"]]) -> None:
        try:
            commands = [command for command, _ in together]
            replies = await finish_sagas(self._database, self._catalog, commands, self._waker)
        except Exception as fault:
            if len(together) > 1 and not is_lost(fault):
                for one in together:  # one of them may be what the others fail with
                    await self._write_together([one])
                return
            replies = [fault for _ in together]
        for (_, written), reply in zip(together, replies, strict=True):
            if written.done():
                continue
            if isinstance(reply, Exception):
                written.set_exception(reply)
            else:
                written.set_result(reply)


class DriveSlot:
    """One of those that are driven at once: given to the next saga while this one waits for its end to be written.

    Args:
        places: how many there are.
    """

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._is_taken = False

    async def __aenter__(self) -> Self:
        await self._places.acquire()
        self._is_taken = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Let another saga go on."""
        if self._is_taken:
            self._is_taken = False
            self._places.release()


class WaveSteps:
    """`Steps` within a wave.

    Args:
        store: the database.
        finishing: the wave's, for all its sagas.
        groups: the wave's, for steps that come at once.
        is_over: whether the wave's time is up, so that no further step begins.
        place: the saga's, among those that are driven at once.
    """

    def __init__(
        self,
        store: StoreSteps,
        finishing: Finishing,
        groups: StepGroups,
        is_over: Callable[[], bool],
        place: DriveSlot,
    ) -> None:
        self._store = store
        self._groups = groups
        self._place = place
        self._finishing = finishing
        self._is_over = is_over

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step.

        Raises:
            StepFailed: its author's mistake.
            NeedsOwn: it calls the outside.
            Postponed: it could not be done now.
        """
        if isinstance(self._store.catalog.operation(command.operation), ExternalOperation):
            raise NeedsOwn
        if self._is_over():
            raise Postponed(PostponeReason.SLOW)
        try:
            together = await self._groups.run(command)
            if together is not None:
                return together
            return await self._tried(lambda attempt: self._store.run(command, deadline, attempt=attempt))
        except AuthorsMistake as mistake:
            if command.past_pivot:
                raise Postponed(PostponeReason.FAILED, mistake) from mistake
            raise StepFailed(f"step {command.number}, {command.shown}: {error_text(mistake)}") from mistake

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """The wave waits for locks before it drives."""
        raise Postponed(PostponeReason.BLOCKED)

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Not in a wave."""
        _leave()

    async def pause(self, number: int, seconds: float) -> None:
        """Not in a wave."""
        _leave()

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Not in a wave."""
        _leave()

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Nothing to do."""

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Not in a wave."""
        _leave()

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Turn to undoing."""
        return await self._tried(lambda _: self._store.begin_undo(command))

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step. What cannot be undone just now is tried without end in an execution of its own."""
        if isinstance(self._store.catalog.operation(command.operation), ExternalOperation):
            raise NeedsOwn
        return await self._tried(lambda _: self._store.undo(command, compensation))

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        self._place.leave()
        return await self._tried(lambda _: self._finishing.finish(command))

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Show that the saga waits for a person."""
        await self._tried(lambda _: self._store.mark_stuck(command))

    async def _tried(self, attempt: Callable[[int], Awaitable[R]]) -> R:
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


def _leave() -> NoReturn:
    raise NeedsOwn
