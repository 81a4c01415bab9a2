"""The driver's port, implemented on the database; activities call it, and tests use it to drive sagas in-process."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from datetime import timedelta

from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent
from orchestrator.external import ExternalOperation
from orchestrator.operation import HOME
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
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.external.attempt import run_external_step, settle_external_step
from orchestrator.store.external.undo import undo_external_step
from orchestrator.store.locks import Waker, wake_none
from orchestrator.store.outbox import at_home
from orchestrator.store.remote.step import run_remote_step
from orchestrator.store.remote.undo import undo_remote_step
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.finish import finish_saga
from orchestrator.store.saga.group_commit import can_join_group, run_step_group
from orchestrator.store.saga.undo import begin_undo, mark_stuck, undo_step
from orchestrator.store.saga.waits import begin_wait, end_wait

_FIRST_LOOK = 0.01
_LAST_LOOK = 0.5
"""The shortest and the longest pause between two looks at a lock, in seconds."""


class StoreSteps:
    """Runs one attempt per call and raises its error unchanged; the caller retries.

    Args:
        database: the home database; or all databases, if steps are in remote ones.
        catalog: the application's orchestrators and operations.
        waker: called with the sagas that may continue because another saga has ended.
    """

    def __init__(self, database: Database | Databases, catalog: Catalog, waker: Waker = wake_none) -> None:
        self.databases = Databases.of(database)
        self.database = self.databases.home
        self.catalog = catalog
        self.waker = waker

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """Attempt a step."""
        with at_home(self.database):
            if self.catalog.called(command.operation, command.arguments).database != HOME:
                return await run_remote_step(self.databases, self.catalog, command, attempt=attempt)
            run = run_external_step if self._is_external(command.operation) else run_step
            return await run(self.database, self.catalog, command, attempt=attempt)

    def can_join_group(self, command: StepCommand) -> bool:
        """Whether a step may be attempted in a group commit with steps of other sagas."""
        return can_join_group(self.database, self.catalog, command)

    async def run_group(self, commands: Sequence[StepCommand], contexts: Sequence[Context]) -> list[StepReply] | None:
        """Attempt steps of different sagas in one transaction. None: attempt each on its own."""
        return await run_step_group(self.database, self.catalog, commands, contexts)

    async def settle(self, command: StepCommand) -> StepReply | None:
        """Find out whether an abandoned irreversible step has happened. None: it has not, or it is not known."""
        return await settle_external_step(self.database, self.catalog, command)

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Pause before the next look at the locks; the fewer sagas are ahead, the shorter it is."""
        before = max(blocker.before for blocker in blocked.by)
        await asyncio.sleep(min(_FIRST_LOOK * before, _LAST_LOOK))

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Record that the saga waits."""
        return await begin_wait(self.database, self.catalog, command)

    async def pause(self, number: int, seconds: float) -> None:
        """Sleep for this time."""
        await asyncio.sleep(seconds)

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Sleep for this time and return no event, because no event is sent to a saga without an execution."""
        await asyncio.sleep(seconds)
        return None

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Do nothing."""

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Record how a wait ended."""
        return await end_wait(self.database, command)

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Begin the undo."""
        return await begin_undo(self.databases, self.catalog, command)

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step."""
        with at_home(self.database):
            if command.database != HOME:
                return await undo_remote_step(self.databases, self.catalog, command)
            undo = undo_external_step if self._is_external(command.operation) else undo_step
            return await undo(self.database, self.catalog, command)

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Record the outcome."""
        return await finish_saga(self.database, self.catalog, command, self.waker)

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Mark the saga as stuck, or as no longer stuck."""
        await mark_stuck(self.database, self.catalog, command)

    def _is_external(self, operation: str) -> bool:
        return isinstance(self.catalog.operation(operation), ExternalOperation)
