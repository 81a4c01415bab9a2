"""The port through which a driver reaches the database: by activities in a workflow, directly in a wave or a test."""

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from orchestrator.event import DomainEvent
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


class StepFailed(Exception):
    """A step kept failing until its deadline, or failed with an error that is not retried. It may have been done."""

    def __init__(self, error: str) -> None:
        self.error = error
        super().__init__(error)


class CancelRequested(Exception):
    """A user cancelled the saga, or its deadline passed, while a step was running.

    The step may have been done.

    Args:
        failing: the step and its last error, if the step had failed and was being retried.
    """

    def __init__(self, failing: str | None = None) -> None:
        self.failing = failing
        super().__init__(failing or "")


class Steps(Protocol):
    """The port. Each method is one transaction that is safe to repeat; the implementation retries it."""

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step.

        Raises:
            StepFailed: the step failed and is no longer retried.
            CancelRequested: the driver must stop going forward.
        """
        ...

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Wait until the saga may hold its locks. Raises `asyncio.CancelledError` if the driver must stop."""
        ...

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Record that the saga waits, and until when."""
        ...

    async def pause(self, number: int, seconds: float) -> None:
        """Sleep. Raises `asyncio.CancelledError` if the driver must stop."""
        ...

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Wait for the first matching event that was sent to this saga; return None if none came in time."""
        ...

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Note that the saga has received this event, so that a copy of it counts as a repeat."""
        ...

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Record the result of a wait. If another driver has already recorded one, the reply contains that result."""
        ...

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Begin the undo. The reply says which steps must be undone."""
        ...

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step; it is retried until it succeeds."""
        ...

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the saga's outcome."""
        ...

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Mark the saga as stuck."""
        ...
