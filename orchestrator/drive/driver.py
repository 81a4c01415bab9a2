"""The driver: takes one saga from wherever it stands to its outcome.

Running again is resuming: `handle` starts from its first line, recorded steps answer with what they recorded, and the
saga goes on where it stood. Any number of drivers may do so at once; each follows what the database decided.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

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
from orchestrator.protocol.envelope import CONTENT_LIMIT, Envelope, UnreadableEvent, canonical, read, saga_id
from orchestrator.protocol.exception_groups import ungrouped
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.values.publishable import check_publishable

R = TypeVar("R")
EndsAs = Literal[Phase.FAILED, Phase.CANCELLED]

OPERATION_FAILED = "operation.failed"
"""Error code of a saga undone because a step failed for good; the message says which and how."""
CANCELLED = "saga.cancelled"
"""Error code of a saga that a person cancelled."""
DEADLINE_EXCEEDED = "saga.deadline_exceeded"
"""Error code of a saga that was undone because it took longer than its orchestrator allows."""


NOT_CANCELLED = (
    "`handle` cancelled a step that was running, or left it behind: `asyncio.timeout`, `wait_for`, `task.cancel()` and "
    "a `TaskGroup` in which another task fails do so. What became of the step is then unknown, so nothing is undone. "
    "To let time pass use `saga.sleep(...)`; to bound the time of one step use `@operation(deadline=...)`, and of "
    "the saga `deadline` of its orchestrator. You want several steps at once: "
    "`await saga.execute_batch(first, second, parallel=True)`"
)
"""What is said when a step was cancelled and neither a person nor the clock did so."""


class EventIdReused(OrchestratorError):
    """The event's id was used before for other content; the first one counts."""


class SagaStuck(OrchestratorError):
    """The saga waits for a person; the message says what for."""


class Driver:
    """Drives one saga through a `Steps` port.

    Args:
        orchestrator: its class; an instance lives for one run of `handle`.
        event: the event, read; or why it cannot be read: then the saga can only be undone.
        envelope: the same event, as it arrived.
        steps: the way to the database.
        owner: workflow id and first run id of the execution that drives, for recovery.
        why_cancelled: what the person said who cancelled.
        opened: the saga's row is written, and this driver is known to own it; else its first step writes it.
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
        self._cancels_followed = 0
        self._handling: asyncio.Task[Any] | None = None
        self._opened = opened
        self._driving: asyncio.Task[Any] | None = None
        self._left = False
        self._went_on = False
        self._expired = False
        deadline = orchestrator.deadline
        self._opening = Opening(
            saga=ref,
            envelope=envelope.text,
            owner_workflow_id=owner[0],
            owner_first_run_id=owner[1],
            deadline=None if deadline is None else deadline.total_seconds(),
        )

    async def drive(self) -> Outcome:
        """Take the saga to its outcome. A cancel of the calling task turns it to undoing.

        Raises:
            EventIdReused: its id was used before for other content.
            SagaStuck: a person must look; the row says so too.
            Exception: a bug in `handle`; nothing is undone, and a fixed version resumes.
            asyncio.CancelledError: `leave` was called.
        """
        self._driving = asyncio.current_task()
        timer = self._armed()
        try:
            # A task of its own, so that what `handle` cancels is its own task: a cancel of this one is a person's.
            return await asyncio.ensure_future(self._forward())
        except asyncio.CancelledError:
            if self._left:
                raise
            return await uninterrupted(self._stop())
        finally:
            if timer is not None:
                timer.cancel()

    def leave(self) -> None:
        """Have `drive` end where it stands, with `asyncio.CancelledError`: nothing is decided, another driver goes on.

        What has begun to be undone or written is ended first.
        """
        self._left = True
        if self._driving is not None:
            self._driving.cancel()

    async def expire(self) -> Outcome:
        """Undo the saga because its deadline is past."""
        return await self.undo(Phase.FAILED, DEADLINE_EXCEEDED, too_late(self._orchestrator))

    def _armed(self) -> asyncio.TimerHandle | None:
        """A timer that stops the driving task at the saga's deadline.

        It counts from when this driver began. What passed before another one did is judged when the row is opened.
        """
        driving = asyncio.current_task()
        if self._opening.deadline is None or driving is None:
            return None

        def expire() -> None:
            self._expired = True
            driving.cancel()

        return asyncio.get_running_loop().call_later(self._opening.deadline, expire)

    def _is_stopped(self) -> bool:
        """Whether a person, the clock or `leave` stopped the driving, and not the author's own code."""
        return self._driving is not None and self._driving.cancelling() > self._cancels_followed

    async def _stop(self, failing: str | None = None) -> Outcome:
        """Undo the saga because a person cancelled it, or because its deadline is past.

        Args:
            failing: the step that is being retried, with its last error.
        """
        if self._driving is not None:
            self._cancels_followed = self._driving.cancelling()
        if self._expired:
            self._expired = False
            late = too_late(self._orchestrator)
            return await self._back(
                Phase.FAILED, DEADLINE_EXCEEDED, storable(f"{late}; {failing}" if failing else late)
            )
        said = self._why_cancelled()
        reason = f"cancelled while it was running: {said}" if said else "cancelled while it was running"
        return await self._back(Phase.CANCELLED, CANCELLED, reason)

    async def undo(self, ends_as: EndsAs, error_code: str, message: str) -> Outcome:
        """Undo the saga, wherever it stands, unless it is past its pivot or has ended."""
        return await uninterrupted(self._back(ends_as, error_code, message))

    async def _forward(self) -> Outcome:
        self._handling = asyncio.current_task()
        if isinstance(self._event, UnreadableEvent):
            raise self._event
        # Here, and not when this driver is made: a mistake in `locks` keeps nobody from cancelling the saga.
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
                raise saga.misuse("handle returned while a step was running: await each `saga.execute(...)`")
            if forgotten := saga.forgotten(described):
                raise forgotten
        except BaseException as raised:
            return await self._answer(raised, saga)
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

    async def _answer(self, raised: BaseException, saga: DrivenSaga) -> Outcome:
        """Do what an exception that `handle` raised demands.

        What it raises on its way out of an interruption, in a `finally:` for example, or in a group of other errors, is
        not its answer.
        """
        if isinstance(raised, GeneratorExit) and is_closing(self._handling):
            raise raised  # an execution that Temporal evicts: nothing may be awaited any more
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
            return await uninterrupted(self._back(Phase.FAILED, raised.code, raised.message))
        if isinstance(raised, Interrupted):
            return await self._follow(raised)
        if saga.is_busy or isinstance(raised, asyncio.CancelledError):
            raise UsageError(NOT_CANCELLED) from raised
        if isinstance(raised, Exception):
            raise raised
        raise interrupted("handle", raised) from raised

    def _fields(self, completed: object) -> dict[str, Any]:
        wanted = self._orchestrator.completed
        if not isinstance(completed, wanted):
            raise UsageError(f"handle must return {wanted.__name__}, and returned {type(completed).__name__}")
        try:
            fields: dict[str, Any] = completed.model_dump(mode="json")
            check_publishable(completed, fields, read_as=wanted)
        except (ValueError, RecursionError, UnreadableEvent) as fault:
            said = fault.message if isinstance(fault, UnreadableEvent) else str(fault).splitlines()[0]
            raise UsageError(f"handle returned a {wanted.__name__} that cannot be recorded: {said}") from fault
        if (size := len(canonical(fields).encode())) > CONTENT_LIMIT:
            raise UsageError(f"{wanted.__name__} takes {size:,} bytes and the limit is {CONTENT_LIMIT:,}")
        return fields

    async def _follow(self, interruption: Interrupted, misused: Exception | None = None) -> Outcome:
        """Do what was decided elsewhere, or what a failure demands; `misused` is a mistake that `handle` made."""
        match interruption.why:
            case Decided(phase=phase):
                # Turning answers with the outcome if there is one, and with what is left to undo if not.
                ends_as: EndsAs = Phase.CANCELLED if phase is Phase.CANCELLED else Phase.FAILED
                return await uninterrupted(self._back(ends_as, OPERATION_FAILED, "decided elsewhere"))
            case Diverged() as diverged:
                error = _told(diverged)
                await uninterrupted(
                    self._steps.mark_stuck(
                        MarkStuckCommand(saga=self._opening.saga, number=diverged.number, error=error)
                    )
                )
                raise SagaStuck(error)
            case Reused():
                raise EventIdReused(f"event id {self._envelope.event_id} was used before for other content")
            case Resume(envelope=first):
                # Time and chance in `handle` come from the event: with another time it would take other steps.
                self._envelope = read(first)
                self._opening = self._opening.model_copy(update={"envelope": first})
                return await self._forward()
            case CancelRequested(failing=failing):
                if self._left:
                    raise asyncio.CancelledError
                if not self._is_stopped():
                    raise misused or UsageError(NOT_CANCELLED)
                return await uninterrupted(self._stop(failing))
            case Expired():
                return await uninterrupted(self._back(Phase.FAILED, DEADLINE_EXCEEDED, too_late(self._orchestrator)))
            case StepFailed(error=error):
                return await uninterrupted(self._back(Phase.FAILED, OPERATION_FAILED, storable(error)))
            case other:
                raise other

    async def _back(self, ends_as: EndsAs, error_code: str, message: str) -> Outcome:
        turned = await self._steps.begin_undo(
            BeginUndoCommand(
                opening=self._opening,
                ends_as=ends_as,
                error_code=error_code,
                message=message,
                only_recorded=isinstance(self._event, UnreadableEvent) and not self._event.is_newer,
            )
        )
        match turned:
            case Outcome():
                return turned
            case Reused():
                raise EventIdReused(f"event id {self._envelope.event_id} was used before for other content")
            case PastPivot(number=pivot):
                self._opening = self._opening.model_copy(update={"deadline": None})
                if ends_as is Phase.CANCELLED or not self._went_on:
                    # A pivot that committed and lost its reply answers now. But only once: a refusal would come again.
                    self._went_on = True
                    return await self._forward()
                error = (
                    f"step {pivot} cannot be undone, and what comes after it cannot be done: {error_code}: {message}"
                )
                await uninterrupted(
                    self._steps.mark_stuck(
                        MarkStuckCommand(saga=self._opening.saga, number=pivot, error=storable(error))
                    )
                )
                raise SagaStuck(error)
            case _:
                pass
        for step in turned.steps:
            command = UndoCommand(
                saga=self._opening.saga,
                number=step.number,
                operation=step.operation,
                event_time=turned.event_time,
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
    """What is said of a saga that is undone because its deadline is past."""
    return f"not done within {orchestrator.deadline}, the deadline of {orchestrator.__name__}"


async def uninterrupted(work: Coroutine[Any, Any, R] | Awaitable[R]) -> R:
    """Await work to its end though the caller is cancelled: what began to be undone is undone to the end."""
    task = asyncio.ensure_future(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise


def _told(diverged: Diverged) -> str:
    return storable(
        f"step {diverged.number} is not what was recorded: recorded {diverged.recorded}, now {diverged.given}. "
        "Deploy the code that the saga was begun with, or cancel the saga"
    )
