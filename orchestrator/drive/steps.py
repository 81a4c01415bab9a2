"""The port through which a driver reaches the database: activities in a workflow, plain calls in a wave or a test."""

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
from orchestrator.protocol.envelope import Envelope


class StepFailed(Exception):
    """A step could not be done until its deadline, or its failure cannot be retried. Its fate may be unknown."""

    def __init__(self, error: str) -> None:
        self.error = error
        super().__init__(error)


class CancelRequested(Exception):
    """The driver is to stop while this step runs, because a person said so or the saga's time is up.

    The step's fate may be unknown.

    Args:
        failing: the step and its last error, if it has failed before and is being retried.
    """

    def __init__(self, failing: str | None = None) -> None:
        self.failing = failing
        super().__init__(failing or "")


class Steps(Protocol):
    """Each method is one transaction, safe to repeat, and retried by whoever implements the port."""

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step.

        Raises:
            StepFailed: it failed for good.
            CancelRequested: the driver is to stop going forward.
        """
        ...

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Wait until it is worth asking again. Ends with `asyncio.CancelledError` when the driver is to stop."""
        ...

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Write down that the saga waits, and until when."""
        ...

    async def pause(self, number: int, seconds: float) -> None:
        """Let time pass. Ends with `asyncio.CancelledError` when the driver is to stop."""
        ...

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Wait for an event that was sent to this saga, in the order of arrival; None if none came in time."""
        ...

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """This event was taken: if it is here, or comes, it comes again."""
        ...

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Write down how a wait ended; whoever wrote first is the truth."""
        ...

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Turn to undoing; learn what is to be undone."""
        ...

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step. Tried for as long as it takes."""
        ...

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        ...

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Show that the saga waits for a person."""
        ...
