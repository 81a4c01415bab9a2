"""The driver: takes one saga from any state to its outcome.

A driver resumes a saga by running `handle` from its first line. Recorded steps return their recorded results, so the
saga continues where it was. Any number of drivers may run at the same time; each follows what the database decides.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, TypeVar

from pydantic import JsonValue

from orchestrator.drive.driven_saga import DrivenSaga, Interrupted
from orchestrator.drive.steps import CancelRequested, StepFailed, Steps
from orchestrator.errors import OrchestratorError, Refused, UsageError, storable
from orchestrator.event import DomainEvent
from orchestrator.operation import describing
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    Decided,
    Diverged,
    Expired,
    FinishCommand,
    MarkStuckCommand,
    Opening,
    Outcome,
    PastPivot,
    Phase,
    Resume,
    Reused,
    SagaRef,
    UndoCommand,
)
from orchestrator.protocol.containment import interrupted, is_closing
from orchestrator.protocol.exception_groups import ungrouped
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.protocol.messages.envelope import CONTENT_LIMIT, Envelope, UnreadableEvent, canonical, read, saga_id
from orchestrator.protocol.messages.unwrapping import id_reused
from orchestrator.values.publishable import check_publishable

R = TypeVar("R")
EndsAs = Literal[Phase.FAILED, Phase.CANCELLED]

OPERATION_FAILED = "operation.failed"
"""The error code of a saga that was undone because a step failed; the message says which step and why."""
CANCELLED = "saga.cancelled"
"""The error code of a saga that a user cancelled."""
DEADLINE_EXCEEDED = "saga.deadline_exceeded"
"""The error code of a saga that was undone because it took longer than its orchestrator's deadline."""


NOT_CANCELLED = (
    "`handle` cancelled or abandoned a running step, as `asyncio.timeout`, `wait_for`, `task.cancel()` and a failing "
    "`TaskGroup` do. Whether the step was done is then unknown, so nothing is undone. To wait, use `saga.sleep(...)`. "
    "To limit the time of a step, use `@operation(deadline=...)`, and that of the saga, its orchestrator's `deadline`. "
    "To run several steps concurrently, use `await saga.execute_all(first, second, parallel=True)`"
)
"""The message for a step that was cancelled although neither a user nor the deadline stopped the saga."""


class EventIdReused(OrchestratorError):
    """The event's id was already used for different content; the first event counts."""


class SagaStuck(OrchestratorError):
    """The saga is stuck and needs an operator; the message says why."""


class Driver:
    """Drives one saga through a `Steps` port.

    Args:
        orchestrator: the orchestrator's class; each run of `handle` has its own instance.
        event: the typed event, or the error if it cannot be read. Without the event the saga can only be undone.
        envelope: the event's envelope as it arrived.
        steps: the port to the database.
        owner: the workflow id and first run id of the execution that drives, for recovery.
        why_cancelled: returns the reason that a user gave for cancelling the saga.
        opened: whether the saga's row exists and is owned by this driver; otherwise its first step writes the row.
    """

    def __init__(
        self,
        orchestrator: type[Orchestrator[Any, Any, Any]],
        event: DomainEvent | UnreadableEvent,
        envelope: Envelope,
        steps: Steps,
        *,
        owner: tuple[str, str] = ("", ""),
        why_cancelled: Callable[[], str | None] = lambda: None,
        opened: bool = False,
    ) -> None:
        name = orchestrator.__name__
        ref = SagaRef(id=saga_id(name, envelope.event_id), orchestrator=name, event_id=envelope.event_id)
        self._orchestrator = orchestrator
        self._event = event
        self._envelope = envelope
        self._steps = steps
        self._why_cancelled = why_cancelled
        self._cancels_handled = 0
        self._handling: asyncio.Task[Any] | None = None
        self._opened = opened
        self._driving: asyncio.Task[Any] | None = None
        self._is_abandoned = False
        self._has_passed_pivot = False
        self._is_expired = False
        deadline = orchestrator.deadline
        self._opening = Opening(
            saga=ref,
            envelope=envelope.text,
            owner_workflow_id=owner[0],
            owner_first_run_id=owner[1],
            deadline=None if deadline is None else deadline.total_seconds(),
        )

    async def drive(self) -> Outcome:
        """Drive the saga to its outcome. Cancelling the calling task begins the undo.

        Raises:
            EventIdReused: the event's id was already used for different content.
            SagaStuck: the saga is stuck; its row is marked as well.
            Exception: a bug in `handle`. Nothing is undone, and fixed code resumes the saga.
            asyncio.CancelledError: `abandon` was called.
        """
        self._driving = asyncio.current_task()
        timer = self._start_deadline_timer()
        try:
            # `handle` runs in its own task, because it may cancel that task. Only a user cancels this one.
            return await asyncio.ensure_future(self._forward())
        except asyncio.CancelledError:
            if self._is_abandoned:
                raise
            return await uninterrupted(self._stop())
        finally:
            if timer is not None:
                timer.cancel()

    def abandon(self) -> None:
        """Make `drive` end with `asyncio.CancelledError`, so that another driver can continue. Nothing is decided.

        An undo or an outcome that has begun is completed first.
        """
        self._is_abandoned = True
        if self._driving is not None:
            self._driving.cancel()

    async def expire(self) -> Outcome:
        """Undo the saga because its deadline has passed."""
        return await self.undo(Phase.FAILED, DEADLINE_EXCEEDED, too_late(self._orchestrator))

    def _start_deadline_timer(self) -> asyncio.TimerHandle | None:
        """Start a timer that stops the driving task when the saga's deadline has passed.

        The timer starts with this driver. Whether the deadline had passed before that is decided when the saga's row is
        opened.
        """
        driving = asyncio.current_task()
        if self._opening.deadline is None or driving is None:
            return None

        def expire() -> None:
            self._is_expired = True
            driving.cancel()

        return asyncio.get_running_loop().call_later(self._opening.deadline, expire)

    def _is_stopped(self) -> bool:
        """Whether a user, the deadline or `abandon` stopped the driver, rather than the author's own code."""
        return self._driving is not None and self._driving.cancelling() > self._cancels_handled

    async def _stop(self, failing: str | None = None) -> Outcome:
        """Undo the saga because a user cancelled it or its deadline has passed.

        Args:
            failing: the step that is being retried, with its last error.
        """
        if self._driving is not None:
            self._cancels_handled = self._driving.cancelling()
        if self._is_expired:
            self._is_expired = False
            late = too_late(self._orchestrator)
            return await self._undo(
                Phase.FAILED, DEADLINE_EXCEEDED, storable(f"{late}; {failing}" if failing else late)
            )
        reason = self._why_cancelled()
        message = f"cancelled while it was running: {reason}" if reason else "cancelled while it was running"
        return await self._undo(Phase.CANCELLED, CANCELLED, message)

    async def undo(self, ends_as: EndsAs, error_code: str, message: str) -> Outcome:
        """Undo the saga from any state, unless it is past its pivot or has ended."""
        return await uninterrupted(self._undo(ends_as, error_code, message))

    async def _forward(self) -> Outcome:
        self._handling = asyncio.current_task()
        if isinstance(self._event, UnreadableEvent):
            raise self._event
        # Computed here and not in the constructor, so that a bug in `locks` cannot prevent the saga from being
        # cancelled.
        locks = lock_keys_of(self._orchestrator, self._event)
        self._opening = self._opening.model_copy(update={"lock_keys": locks.keys, "ordering_key": locks.ordering_key})
        saga = DrivenSaga(self._opening, self._envelope, self._steps, self._orchestrator.awaited, opened=self._opened)
        try:
            with describing() as described, ungrouped():
                completed = await self._orchestrator().handle(self._event, saga)
            if saga.interrupted:
                raise saga.interrupted
            if saga.misused:
                raise saga.misused
            if saga.is_busy:
                raise saga.misuse("`handle` returned while a step was running. Await each `saga.execute(...)`")
            if forgotten := saga.forgotten(described):
                raise forgotten
        except BaseException as raised:
            return await self._handle_exception(raised, saga)
        fields = self._fields(completed)
        finish = FinishCommand(
            opening=self._opening,
            completed=fields,
            completed_version=self._orchestrator.completed.version,
            steps=saga.reached,
        )
        reply = await uninterrupted(self._steps.finish(finish))
        if isinstance(reply, Outcome):
            return reply
        return await self._follow(Interrupted(reply))

    async def _handle_exception(self, raised: BaseException, saga: DrivenSaga) -> Outcome:
        """Continue after `handle` has raised an exception.

        After an interruption its own exceptions do not count, for example those from a `finally:` block.
        """
        if isinstance(raised, GeneratorExit) and is_closing(self._handling):
            raise raised  # Temporal evicts the execution, so nothing may be awaited
        if raised is saga.ended_by:
            raise raised
        if isinstance(raised, asyncio.CancelledError) and self._is_stopped():
            raise raised
        if saga.interrupted is not None:
            return await self._follow(saga.interrupted, saga.misused)
        if self._is_stopped() and not isinstance(raised, Refused):
            raise asyncio.CancelledError from raised
        if saga.misused is not None:
            raise saga.misused from (None if saga.misused is raised else raised)
        if isinstance(raised, Refused):
            return await uninterrupted(self._undo(Phase.FAILED, raised.code, raised.message, raised.details))
        if isinstance(raised, Interrupted):
            return await self._follow(raised)
        if saga.is_busy or isinstance(raised, asyncio.CancelledError):
            raise UsageError(NOT_CANCELLED) from raised
        if isinstance(raised, Exception):
            raise raised
        raise interrupted("handle", raised) from raised

    def _fields(self, completed: object) -> dict[str, Any]:
        """Return the fields of the event that `handle` returned, after checking that it can be recorded."""
        event_class = self._orchestrator.completed
        if not isinstance(completed, event_class):
            raise UsageError(f"`handle` must return {event_class.__name__}, but returned {type(completed).__name__}")
        try:
            fields: dict[str, Any] = completed.model_dump(mode="json")
            check_publishable(completed, fields, read_as=event_class)
        except (ValueError, RecursionError, UnreadableEvent) as fault:
            message = fault.message if isinstance(fault, UnreadableEvent) else str(fault).splitlines()[0]
            raise UsageError(
                f"`handle` returned a {event_class.__name__} that cannot be recorded: {message}"
            ) from fault
        if (size := len(canonical(fields).encode())) > CONTENT_LIMIT:
            raise UsageError(f"{event_class.__name__} takes {size:,} bytes and the limit is {CONTENT_LIMIT:,}")
        return fields

    async def _follow(self, interruption: Interrupted, misused: Exception | None = None) -> Outcome:
        """Do what the database decided or what a failure requires; `misused` is a mistake that `handle` made."""
        match interruption.why:
            case Decided(phase=phase):
                # The reply to `begin_undo` is the outcome, if there is one, or otherwise the steps that must be undone.
                ends_as: EndsAs = Phase.CANCELLED if phase is Phase.CANCELLED else Phase.FAILED
                return await uninterrupted(self._undo(ends_as, OPERATION_FAILED, "decided elsewhere"))
            case Diverged() as diverged:
                error = _describe_divergence(diverged)
                await uninterrupted(
                    self._steps.mark_stuck(
                        MarkStuckCommand(saga=self._opening.saga, number=diverged.number, error=error)
                    )
                )
                raise SagaStuck(error)
            case Reused():
                raise EventIdReused(id_reused(self._envelope.event_id).message)
            case Resume(envelope=first):
                # `handle` gets its time and randomness from the envelope, so another envelope could lead to other
                # steps.
                self._envelope = read(first)
                self._opening = self._opening.model_copy(update={"envelope": first})
                return await self._forward()
            case CancelRequested(failing=failing):
                if self._is_abandoned:
                    raise asyncio.CancelledError
                if not self._is_stopped():
                    raise misused or UsageError(NOT_CANCELLED)
                return await uninterrupted(self._stop(failing))
            case Expired():
                return await uninterrupted(self._undo(Phase.FAILED, DEADLINE_EXCEEDED, too_late(self._orchestrator)))
            case StepFailed(error=error):
                return await uninterrupted(self._undo(Phase.FAILED, OPERATION_FAILED, storable(error)))
            case other:
                raise other

    async def _undo(
        self, ends_as: EndsAs, error_code: str, message: str, details: Mapping[str, JsonValue] | None = None
    ) -> Outcome:
        plan = await self._steps.begin_undo(
            BeginUndoCommand(
                opening=self._opening,
                ends_as=ends_as,
                error_code=error_code,
                message=message,
                details=None if details is None else dict(details),
                only_recorded=isinstance(self._event, UnreadableEvent) and not self._event.is_newer,
            )
        )
        match plan:
            case Outcome():
                return plan
            case Reused():
                raise EventIdReused(id_reused(self._envelope.event_id).message)
            case PastPivot(number=pivot):
                self._opening = self._opening.model_copy(update={"deadline": None})
                if ends_as is Phase.CANCELLED or not self._has_passed_pivot:
                    # The pivot may have committed although its reply was lost, so the saga goes forward. After a
                    # failure it does so only once, because a refusal would occur again.
                    self._has_passed_pivot = True
                    return await self._forward()
                error = f"step {pivot} cannot be undone, and the saga cannot continue: {error_code}: {message}"
                await uninterrupted(
                    self._steps.mark_stuck(
                        MarkStuckCommand(saga=self._opening.saga, number=pivot, error=storable(error))
                    )
                )
                raise SagaStuck(error)
            case _:
                pass
        for step in plan.steps:
            command = UndoCommand(
                saga=self._opening.saga,
                number=step.number,
                operation=step.operation,
                event_time=plan.event_time,
                attempt_limit=step.attempt_limit,
                calls=step.calls,
                database=step.database,
            )
            await self._steps.undo(command, step.compensation)
        reply = await self._steps.finish(FinishCommand(opening=self._opening))
        if isinstance(reply, Outcome):
            return reply
        return await self._follow(Interrupted(reply))


def too_late(orchestrator: type[Orchestrator[Any, Any, Any]]) -> str:
    """Return the message for a saga that is undone because its deadline has passed."""
    return f"not done within {orchestrator.deadline}, the deadline of {orchestrator.__name__}"


async def uninterrupted(work: Coroutine[Any, Any, R] | Awaitable[R]) -> R:
    """Await work until it is done, even if the caller is cancelled, so that an undo is always completed."""
    task = asyncio.ensure_future(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise


def _describe_divergence(diverged: Diverged) -> str:
    return storable(
        f"step {diverged.number} differs from its record: recorded {diverged.recorded}, now {diverged.requested}. "
        "Deploy the code that the saga was begun with, or cancel the saga"
    )
