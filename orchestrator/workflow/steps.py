"""The driver's port through Temporal: every step, turn, undoing and finish is an activity, local first, then durable.

A local activity costs no round trip to the server, and is lost with its worker; the fence makes a second run harmless.
What fails there goes on as a regular activity, which the server retries and the Web UI shows. A step is given up by the
activity itself once its deadline is past (see `orchestrator.worker.activities`), so that a time without any worker does
not count as failing.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NoReturn, cast

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

from orchestrator.definition.atomic import ATOMIC
from orchestrator.drive.steps import CancelRequested, StepFailed
from orchestrator.event import DomainEvent
from orchestrator.protocol import names
from orchestrator.protocol.commands import (
    STUCK_AFTER,
    BeginUndoCommand,
    BeginUndoReply,
    Blocked,
    Diverged,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    MarkStuckCommand,
    Outcome,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
    UndoCommand,
    UndoPlan,
    UndoReply,
    WaitBegun,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.envelope import Envelope
from orchestrator.workflow.failures import failure_text
from orchestrator.workflow.inbox import Inbox, InboxFull
from orchestrator.workflow.local_first import ATTEMPT, LOCAL_ATTEMPTS, Activities
from orchestrator.workflow.search_attributes import SagaStatus
from orchestrator.workflow.steps_table import StepsTable

LOOKS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds from one look at a lock to the next, where nobody says that it is free. The last one goes on."""
OFTEN = 100
SELDOM = 300.0
"""Seconds, after that many looks: each is some events of a history that has an end."""
_CALLS = 5
"""Calls of the outside, or waits as long, that one attempt may make."""
_SUMMARY = 200
"""Characters: the server takes 400 bytes."""
_BEGUN_ANEW = timedelta(minutes=1)
_FIRST_WAIT = timedelta(milliseconds=100)

_STEP_RETRIES = RetryPolicy(initial_interval=_FIRST_WAIT, maximum_interval=timedelta(seconds=30))
_FEW_RETRIES = RetryPolicy(initial_interval=_FIRST_WAIT, maximum_attempts=STUCK_AFTER - LOCAL_ATTEMPTS)
_ENDLESS_RETRIES = RetryPolicy(initial_interval=_FIRST_WAIT, maximum_interval=timedelta(minutes=1))


class TemporalSteps:
    """`Steps` by activities on the execution's own task queue.

    Args:
        table: where the Web UI's table of steps is kept.
        inbox: what is sent to the execution.
        status: what it can be found by.
        retries: how many times a person has asked to try at once, so far.
        wakes: how many times somebody who held a lock has said that it is free, so far.
        go_on: continues in another run, when this one has had so many messages that it may only wait.
    """

    def __init__(
        self,
        table: StepsTable,
        inbox: Inbox,
        status: SagaStatus,
        retries: Callable[[], int],
        wakes: Callable[[], int] = lambda: 0,
        *,
        go_on: Callable[[], Awaitable[NoReturn]],
    ) -> None:
        self._go_on = go_on
        self._table = table
        self._status = status
        self._inbox = inbox
        self._retries = retries
        self._wakes = wakes
        self._woken = 0
        self._looks = 0
        self._activities = Activities(status.goes_on)

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step; retried until the activity gives up, past the pivot without end.

        Raises:
            StepFailed: it gave up.
            CancelRequested: the execution was cancelled.
        """
        self._show(command.number, "running", command.shown)
        summary = f"step {command.number}"
        failing: list[str] = []

        def failed(failure: FailureError) -> None:
            failing[:] = [f"step {command.number}, {command.shown}, failed last with {_cause(failure)}"]

        if command.operation == ATOMIC.name:
            summary = f"{summary}: {_short(command.shown)}"
        try:
            reply: StepReply
            if command.past_pivot:
                stuck = MarkStuckCommand(saga=command.saga, number=command.number, error="", step=command)
                reply = await self._insist(command.operation, command, StepReply, summary, stuck=stuck)
            else:
                reply = await self._once(command, summary, failed)
        except FailureError as failure:
            if is_cancelled_exception(failure):
                self._show(command.number, "cancelled")
                raise CancelRequested(failing[0] if failing else None) from failure
            refused = _refusal(failure)
            if refused is None:
                self._show(command.number, "failed")
                raise StepFailed(f"step {command.number}, {command.shown}: {_cause(failure)}") from failure
            reply = refused
        self._tell(command.number, reply)
        return reply

    async def _once(self, command: StepCommand, summary: str, failed: Callable[[FailureError], None]) -> StepReply:
        activities = self._activities
        if command.attempt_limit is None:
            return cast(
                StepReply,
                await activities.local_first(
                    command.operation, command, StepReply, summary, _STEP_RETRIES, failed=failed
                ),
            )
        attempt = _attempt_of(command)
        return cast(
            StepReply,
            await activities.regular(command.operation, command, StepReply, summary, _STEP_RETRIES, attempt=attempt),
        )

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Wait for a wake signal, or until it is time to look without one."""
        first, *others = blocked.by
        held = f"waits for lock {first.key}, held by {first.holder.orchestrator} {first.holder.event_id}"
        more = f", and for {len(others)} more" if others else ""
        title = self._table.title
        self._entitle(f"{held}, {first.before} before it{more}")
        self._looks += 1
        seconds = LOOKS[min(self._looks, len(LOOKS)) - 1] if self._looks <= OFTEN else SELDOM
        self._status.goes_on()
        # Not only since now: the wake may have come while the reply was on its way.
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._wakes() > self._woken or self._inbox.wants_new_run,
                timeout=seconds,
                timeout_summary=f"lock {first.key}",
            )
        if self._inbox.wants_new_run:
            await self._go_on()
        self._woken = self._wakes()
        self._table.title = title

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Write down that the saga waits."""
        self._show(command.number, "waiting", command.operation)
        reply: WaitReply = await self._insist(names.BEGIN_WAIT, command, WaitReply, f"step {command.number}: wait")
        if not isinstance(reply, WaitBegun):
            self._tell(command.number, reply)
        return reply

    async def pause(self, number: int, seconds: float) -> None:
        """Let time pass."""
        if seconds > 0:
            self._status.goes_on()
            with contextlib.suppress(asyncio.TimeoutError):
                await workflow.wait_condition(
                    lambda: self._inbox.wants_new_run, timeout=seconds, timeout_summary=f"step {number}: sleep"
                )
                await self._go_on()

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Wait for an event in the inbox."""
        self._status.goes_on()
        summary = f"step {number}: wait for {event.type_name()}"
        try:
            return await self._inbox.take(event, matching, timedelta(seconds=seconds), summary=summary)
        except InboxFull:
            await self._go_on()

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """This event was taken, perhaps in a run before this one, which knows it no more."""
        self._inbox.received(envelope.event_id, event)

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Write down how a wait ended."""
        reply: StepReply = await self._insist(names.END_WAIT, command, StepReply, f"step {command.number}: go on")
        self._tell(command.number, reply)
        return reply

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Turn to undoing."""
        reply: BeginUndoReply = await self._insist(names.BEGIN_UNDO, command, BeginUndoReply, command.error_code)
        if isinstance(reply, UndoPlan):
            self._status.set("undoing")
            for step in reply.steps:
                self._show(step.number, "to be undone", step.shown)
        return reply

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step; retried without end, and shown as stuck after a few failures."""
        self._show(command.number, f"undoing: `{compensation}`")
        # The database counts failures and marks the saga's row itself: whoever drives.
        stuck = MarkStuckCommand(saga=command.saga, number=command.number, error="")
        reply: UndoReply = await self._insist(
            compensation,
            command,
            UndoReply,
            f"undo step {command.number}: {_short(command.shown)}" if command.calls else f"undo step {command.number}",
            stuck=stuck,
        )
        self._show(command.number, f"undone: `{compensation}`")
        return reply

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        summary = "completed" if command.completed is not None else "undone"
        reply: FinishReply = await self._insist(names.FINISH, command, FinishReply, summary)
        if isinstance(reply, Outcome):
            self._entitle(reply.phase.value)
        return reply

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Show that the saga waits for a person."""
        self._status.set("stuck")
        self._entitle(f"stuck: {command.error}")
        await self._insist(names.MARK_STUCK, command, None, f"stuck at step {command.number}")

    async def _insist(
        self,
        name: str,
        argument: Any,
        result: Any,
        summary: str,
        *,
        stuck: MarkStuckCommand | None = None,
    ) -> Any:
        """An activity that must be done, however it fails. With `stuck` it shows as that after a few failures.

        Its error must not end the execution: the saga would stay without an outcome.
        """
        has_command = isinstance(argument, StepCommand | UndoCommand)
        attempt = _attempt_of(argument) if has_command else ATTEMPT
        try:
            if not has_command or argument.attempt_limit is None:
                return await self._activities.local_first(name, argument, result, summary, _FEW_RETRIES)
            return await self._activities.regular(name, argument, result, summary, _FEW_RETRIES, attempt=attempt)
        except FailureError as failure:
            if is_cancelled_exception(failure):
                raise
            fault = _cause(failure)
        status = "undoing" if isinstance(argument, UndoCommand) else "running"
        if stuck is not None:
            error = f"undoing {argument.shown}: {fault}" if isinstance(argument, UndoCommand) else fault
            await self.mark_stuck(stuck.model_copy(update={"error": error}))
        else:
            self._entitle(f"{summary}: {fault}")
        reply = await self._without_end(name, argument, result, summary, attempt)
        if stuck is not None:
            self._status.set(status)
            self._entitle(status)
            await self._insist(
                names.MARK_STUCK, stuck.model_copy(update={"error": None, "step": None}), None, "goes on"
            )
        return reply

    async def _without_end(self, name: str, argument: Any, result: Any, summary: str, attempt: timedelta) -> Any:
        """Attempts with growing waits; a person who asks for a retry need not sit them out."""
        while True:
            heard = self._retries()

            def is_asked(heard: int = heard) -> bool:
                return self._retries() > heard or self._inbox.wants_new_run

            trying = asyncio.ensure_future(
                self._activities.regular(name, argument, result, summary, _ENDLESS_RETRIES, attempt=attempt)
            )
            asked = asyncio.ensure_future(workflow.wait_condition(is_asked))
            try:
                await workflow.wait([trying, asked], return_when=asyncio.FIRST_COMPLETED)
                if trying.done():
                    return trying.result()
            except FailureError as failure:
                if is_cancelled_exception(failure):
                    raise
                self._entitle(f"{summary}: {_cause(failure)}")
                await workflow.wait([asked], timeout=_BEGUN_ANEW.total_seconds())
            finally:
                _let_go(trying, asked)
            if self._inbox.wants_new_run:
                await self._go_on()

    def _tell(self, number: int, reply: StepReply | WaitReply) -> None:
        match reply:
            case StepDone():
                self._show(number, "done")
            case StepRefused():
                self._show(number, f"refused: {reply.code}")
            case Diverged():
                self._show(number, "stuck: not what was recorded")
            case Blocked():
                self._show(number, "waiting for a lock")
            case _:
                self._show(number, "decided elsewhere")

    def _entitle(self, title: str) -> None:
        self._table.title = title
        workflow.set_current_details(self._table.markdown())

    def _show(self, number: int, state: str, operation: str | None = None) -> None:
        if operation is not None:
            self._table.set(number, operation, state)
        else:
            self._table.say(number, state)
        workflow.set_current_details(self._table.markdown())


def _short(names: str) -> str:
    """As much of an atomic step's operations as a summary shows."""
    return names if len(names) <= _SUMMARY else f"{names[: _SUMMARY - 1]}…"


def _attempt_of(command: StepCommand | UndoCommand) -> timedelta:
    """How long one attempt may take. Outside it asks, calls or waits a call out, and asks again before it settles."""
    return ATTEMPT + timedelta(seconds=_CALLS * (command.attempt_limit or 0))


def _let_go(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel, and hear how each ends. Awaits nothing: an execution that Temporal evicts is closed, and may not."""
    for task in tasks:
        task.add_done_callback(_hear)
        task.cancel()


def _hear(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()


def _refusal(failure: FailureError) -> StepRefused | None:
    """A refusal travels as a failure, so that the Web UI shows the step as failed; its reply is in the details."""
    cause = _application_error(failure)
    if cause is None or not cause.details:
        return None
    detail = cause.details[0]
    if not isinstance(detail, RawValue):
        return None
    return StepRefused.model_validate_json(detail.payload.data)


def _application_error(failure: FailureError) -> ApplicationError | None:
    """What the activity raised: a local one's error comes bare."""
    cause = failure.cause if isinstance(failure, ActivityError) else failure
    return cause if isinstance(cause, ApplicationError) else None


def _cause(failure: FailureError) -> str:
    return str(failure.cause or failure) if failure.failure is None else failure_text(failure.failure)
