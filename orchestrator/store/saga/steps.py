"""The driver's port straight onto the database: what activities call, and what a test drives in-process."""

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
from orchestrator.protocol.envelope import Envelope
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.external.attempt import run_external_step, settle_external_step
from orchestrator.store.external.undo import undo_external_step
from orchestrator.store.locks import Waker, wake_nobody
from orchestrator.store.outbox import at_home
from orchestrator.store.remote.step import run_other_step
from orchestrator.store.remote.undo import undo_other_step
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.finish import finish_saga
from orchestrator.store.saga.group_commit import may_go_together, run_steps_together
from orchestrator.store.saga.undo import begin_undo, mark_stuck, undo_step
from orchestrator.store.saga.waits import begin_wait, end_wait

_FIRST_LOOK = 0.01
_LAST_LOOK = 0.5
"""Seconds between two looks at a lock."""


class StoreSteps:
    """One attempt a call; what fails is raised as it is, and retrying is the caller's.

    Args:
        database: the home database, with the others if steps are in them.
        catalog: knows the application's orchestrators and operations.
        waker: is told who may go on when a saga has ended.
    """

    def __init__(self, database: Database | Databases, catalog: Catalog, waker: Waker = wake_nobody) -> None:
        self.databases = Databases.of(database)
        self.database = self.databases.home
        self.catalog = catalog
        self.waker = waker

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """Attempt a step."""
        with at_home(self.database):
            if self.catalog.called(command.operation, command.arguments).database != HOME:
                return await run_other_step(self.databases, self.catalog, command, attempt=attempt)
            run = run_external_step if self._is_external(command.operation) else run_step
            return await run(self.database, self.catalog, command, attempt=attempt)

    def may_go_together(self, command: StepCommand) -> bool:
        """Whether a step may be attempted in one transaction with those of other sagas."""
        return may_go_together(self.database, self.catalog, command)

    async def run_together(
        self, commands: Sequence[StepCommand], contexts: Sequence[Context]
    ) -> list[StepReply] | None:
        """Attempt steps of different sagas in one transaction. None: each is to be attempted by itself."""
        return await run_steps_together(self.database, self.catalog, commands, contexts)

    async def settle(self, command: StepCommand) -> StepReply | None:
        """When a step is given up: learn whether it happened, if it cannot be undone. None: not so, or unknown."""
        return await settle_external_step(self.database, self.catalog, command)

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Let time pass: the nearer the saga is to its turn, the less."""
        before = max(blocker.before for blocker in blocked.by)
        await asyncio.sleep(min(_FIRST_LOOK * before, _LAST_LOOK))

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Write down that the saga waits."""
        return await begin_wait(self.database, self.catalog, command)

    async def pause(self, number: int, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """No event is sent to a saga that has no execution: time passes."""
        await asyncio.sleep(seconds)
        return None

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Nothing to do."""

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Write down how a wait ended."""
        return await end_wait(self.database, command)

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Turn to undoing."""
        return await begin_undo(self.databases, self.catalog, command)

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step."""
        with at_home(self.database):
            if command.database != HOME:
                return await undo_other_step(self.databases, self.catalog, command)
            undo = undo_external_step if self._is_external(command.operation) else undo_step
            return await undo(self.database, self.catalog, command)

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        return await finish_saga(self.database, self.catalog, command, self.waker)

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Show that the saga waits for a person."""
        await mark_stuck(self.database, self.catalog, command)

    def _is_external(self, operation: str) -> bool:
        return isinstance(self.catalog.operation(operation), ExternalOperation)
