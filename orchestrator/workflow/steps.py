"""Implements the driver's `Steps` through Temporal: every call is an activity, which runs local first, then regular.

A local activity needs no round trip to the server. It is lost with its worker, but the fence makes a second attempt
harmless. If it fails, a regular activity takes over, which the server retries and the Web UI shows. The activity itself
decides when a step's deadline has passed (see `orchestrator.worker.activities`), so that a step gets its attempts even
if no worker ran for a while.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn, cast

from temporalio import workflow
from temporalio.common import RawValue
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
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.retry import DEFAULT_RETRY, ENDLESS_RETRY, LOCAL_ATTEMPTS, RESTART_WAIT
from orchestrator.workflow.failures import failure_text
from orchestrator.workflow.inbox import Inbox, InboxFull
from orchestrator.workflow.local_first import ATTEMPT, HANDED_OVER, Activities, retry_policy
from orchestrator.workflow.search_attributes import SagaStatus
from orchestrator.workflow.steps_table import StepsTable

LOOKS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""The seconds between checks of a lock while no wake signal arrives. The last value is repeated."""
OFTEN = 100
"""The number of checks with these intervals."""
SELDOM = 300.0
"""The seconds between later checks. They are rarer, because each check adds events to a history of limited length."""
_CALLS = 5
"""The maximum number of external calls, or of waits of the same length, in one attempt."""
_SUMMARY = 200
"""The maximum number of characters in a summary; the server accepts 400 bytes."""

# An operation's own waits come with each failure, because its activity knows the code that is deployed at the time.
_STEP_RETRIES = retry_policy(DEFAULT_RETRY)
_FEW_RETRIES = retry_policy(replace(ENDLESS_RETRY, attempts=STUCK_AFTER - LOCAL_ATTEMPTS))
_ENDLESS_RETRIES = retry_policy(ENDLESS_RETRY)


class TemporalSteps:
    """Implements `Steps` with activities on the execution's own task queue.

    Args:
        table: the table of steps that the Web UI shows.
        inbox: the messages that are sent to the execution.
        status: the execution's search attribute `SagaStatus`.
        retries: returns the number of retry signals so far.
        wakes: returns the number of wake signals so far.
        continue_as_new: continues as new. It is called during a wait, as soon as the inbox needs it.
    """

    def __init__(
        self,
        table: StepsTable,
        inbox: Inbox,
        status: SagaStatus,
        retries: Callable[[], int],
        wakes: Callable[[], int] = lambda: 0,
        *,
        continue_as_new: Callable[[], Awaitable[NoReturn]],
    ) -> None:
        self._continue_as_new = continue_as_new
        self._table = table
        self._status = status
        self._inbox = inbox
        self._retries = retries
        self._wakes = wakes
        self._wakes_handled = 0
        self._lock_checks = 0
        self._activities = Activities(status.show_running)

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step. It is retried until the activity gives up; past the pivot it is retried until it succeeds.

        Raises:
            StepFailed: the activity gave up.
            CancelRequested: the execution was cancelled.
        """
        self._show(command.number, "running", command.shown)
        summary = f"step {command.number}"
        failing: list[str] = []

        def failed(failure: FailureError) -> None:
            error = _cause(failure).removeprefix(f"{HANDED_OVER}: ")
            failing[:] = [f"the last attempt of step {command.number}, {command.shown}, failed with {error}"]

        if command.operation == ATOMIC.name:
            summary = f"{summary}: {_short(command.shown)}"
        try:
            reply: StepReply
            if command.past_pivot:
                stuck = MarkStuckCommand(saga=command.saga, number=command.number, error="", step=command)
                reply = await self._run_until_done(command.operation, command, StepReply, summary, stuck=stuck)
            else:
                reply = await self._attempt_step(command, summary, failed)
        except FailureError as failure:
            if is_cancelled_exception(failure):
                self._show(command.number, "cancelled")
                raise CancelRequested(failing[0] if failing else None) from failure
            refused = _refusal(failure)
            if refused is None:
                self._show(command.number, "failed")
                raise StepFailed(f"step {command.number}, {command.shown}: {_cause(failure)}") from failure
            reply = refused
        self._show_reply(command.number, reply)
        return reply

    async def _attempt_step(
        self, command: StepCommand, summary: str, failed: Callable[[FailureError], None]
    ) -> StepReply:
        activities = self._activities
        if command.attempt_limit is None:
            return cast(
                StepReply,
                await activities.local_first(
                    command.operation, command, StepReply, summary, _STEP_RETRIES, failed=failed
                ),
            )
        attempt = _attempt_timeout(command)
        return cast(
            StepReply,
            await activities.regular(command.operation, command, StepReply, summary, _STEP_RETRIES, attempt=attempt),
        )

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Wait for a wake signal, or until the locks must be checked without one."""
        first, *others = blocked.by
        holder = f"waits for lock {first.key}, held by {first.holder.orchestrator} {first.holder.event_id}"
        more = f", and for {len(others)} more" if others else ""
        title = self._table.title
        self._set_title(f"{holder}, {first.before} ahead in the lock queue{more}")
        self._lock_checks += 1
        seconds = LOOKS[min(self._lock_checks, len(LOOKS)) - 1] if self._lock_checks <= OFTEN else SELDOM
        self._status.show_running()
        # Earlier wake signals count as well, because one may have arrived before the reply did.
        with contextlib.suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._wakes() > self._wakes_handled or self._inbox.wants_new_run,
                timeout=seconds,
                timeout_summary=f"lock {first.key}",
            )
        if self._inbox.wants_new_run:
            await self._continue_as_new()
        self._wakes_handled = self._wakes()
        self._table.title = title

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Record that the saga waits."""
        self._show(command.number, "waiting", command.operation)
        summary = f"step {command.number}: begin to wait"
        reply: WaitReply = await self._run_until_done(names.BEGIN_WAIT, command, WaitReply, summary)
        if not isinstance(reply, WaitBegun):
            self._show_reply(command.number, reply)
        return reply

    async def pause(self, number: int, seconds: float) -> None:
        """Sleep."""
        if seconds > 0:
            self._status.show_running()
            with contextlib.suppress(asyncio.TimeoutError):
                await workflow.wait_condition(
                    lambda: self._inbox.wants_new_run, timeout=seconds, timeout_summary=f"step {number}: sleep"
                )
                await self._continue_as_new()

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """Wait for an event in the inbox."""
        self._status.show_running()
        summary = f"step {number}: wait for {event.type_name()}"
        try:
            return await self._inbox.take(event, matching, timedelta(seconds=seconds), summary=summary)
        except InboxFull:
            await self._continue_as_new()

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Record that the saga has received this event, perhaps in an earlier run whose inbox no longer exists."""
        self._inbox.received(envelope.event_id, event)

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Record the result of a wait."""
        summary = f"step {command.number}: end the wait"
        reply: StepReply = await self._run_until_done(names.END_WAIT, command, StepReply, summary)
        self._show_reply(command.number, reply)
        return reply

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Begin the undo."""
        reply: BeginUndoReply = await self._run_until_done(
            names.BEGIN_UNDO, command, BeginUndoReply, command.error_code
        )
        if isinstance(reply, UndoPlan):
            self._status.set("undoing")
            for step in reply.steps:
                self._show(step.number, "to be undone", step.shown)
        return reply

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step. It is retried until it succeeds, and shown as stuck after a few failures."""
        self._show(command.number, f"undoing: `{compensation}`")
        # The database counts the failures as well and marks the saga's row, because other drivers may have attempted
        # the undo.
        stuck = MarkStuckCommand(saga=command.saga, number=command.number, error="")
        reply: UndoReply = await self._run_until_done(
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
        reply: FinishReply = await self._run_until_done(names.FINISH, command, FinishReply, summary)
        if isinstance(reply, Outcome):
            self._set_title(reply.phase.value)
        return reply

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Mark the saga as stuck, in the Web UI and in its row."""
        self._status.set("stuck")
        self._set_title(f"stuck: {command.error}")
        await self._run_until_done(names.MARK_STUCK, command, None, f"stuck at step {command.number}")

    async def _run_until_done(
        self,
        name: str,
        argument: Any,
        result: Any,
        summary: str,
        *,
        stuck: MarkStuckCommand | None = None,
    ) -> Any:
        """Run an activity until it succeeds. With `stuck` the saga is marked as stuck after a few failures.

        An error must not end the execution, because the saga would then have no outcome.
        """
        is_step = isinstance(argument, StepCommand | UndoCommand)
        attempt = _attempt_timeout(argument) if is_step else ATTEMPT
        try:
            if not is_step or argument.attempt_limit is None:
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
            self._set_title(f"{summary}: {fault}")
        reply = await self._retry_endlessly(name, argument, result, summary, attempt)
        if stuck is not None:
            self._status.set(status)
            self._set_title(status)
            cleared = stuck.model_copy(update={"error": None, "step": None})
            await self._run_until_done(names.MARK_STUCK, cleared, None, "no longer stuck")
        return reply

    async def _retry_endlessly(self, name: str, argument: Any, result: Any, summary: str, attempt: timedelta) -> Any:
        """Run a regular activity until it succeeds. A retry signal ends its current wait and restarts it."""
        while True:
            retries_before = self._retries()

            def must_restart(retries_before: int = retries_before) -> bool:
                return self._retries() > retries_before or self._inbox.wants_new_run

            activity = asyncio.ensure_future(
                self._activities.regular(name, argument, result, summary, _ENDLESS_RETRIES, attempt=attempt)
            )
            restart = asyncio.ensure_future(workflow.wait_condition(must_restart))
            try:
                await workflow.wait([activity, restart], return_when=asyncio.FIRST_COMPLETED)
                if activity.done():
                    return activity.result()
            except FailureError as failure:
                if is_cancelled_exception(failure):
                    raise
                self._set_title(f"{summary}: {_cause(failure)}")
                await workflow.wait([restart], timeout=RESTART_WAIT.total_seconds())
            finally:
                _cancel(activity, restart)
            if self._inbox.wants_new_run:
                await self._continue_as_new()

    def _show_reply(self, number: int, reply: StepReply | WaitReply) -> None:
        match reply:
            case StepDone():
                self._show(number, "done")
            case StepRefused():
                self._show(number, f"refused: {reply.code}")
            case Diverged():
                self._show(number, "stuck: differs from its record")
            case Blocked():
                self._show(number, "waiting for a lock")
            case _:
                self._show(number, "decided elsewhere")

    def _set_title(self, title: str) -> None:
        self._table.title = title
        workflow.set_current_details(self._table.markdown())

    def _show(self, number: int, state: str, operation: str | None = None) -> None:
        if operation is not None:
            self._table.set(number, operation, state)
        else:
            self._table.update(number, state)
        workflow.set_current_details(self._table.markdown())


def _short(names: str) -> str:
    """Return the names of an atomic step's operations, shortened so that they fit into a summary."""
    return names if len(names) <= _SUMMARY else f"{names[: _SUMMARY - 1]}…"


def _attempt_timeout(command: StepCommand | UndoCommand) -> timedelta:
    """Return how long one attempt may take. An external step may verify, call or wait, and verify again."""
    return ATTEMPT + timedelta(seconds=_CALLS * (command.attempt_limit or 0))


def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and retrieve their exceptions, without awaiting, which an evicted execution must not do."""
    for task in tasks:
        task.add_done_callback(_retrieve_exception)
        task.cancel()


def _retrieve_exception(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()


def _refusal(failure: FailureError) -> StepRefused | None:
    """Return the refusal in a failure. A refusal is sent as a failure so that the Web UI shows the step as failed."""
    cause = _application_error(failure)
    if cause is None or not cause.details:
        return None
    detail = cause.details[0]
    if not isinstance(detail, RawValue):
        return None
    return StepRefused.model_validate_json(detail.payload.data)


def _application_error(failure: FailureError) -> ApplicationError | None:
    """Return the error that the activity raised. A local activity's error is not wrapped in an ActivityError."""
    cause = failure.cause if isinstance(failure, ActivityError) else failure
    return cause if isinstance(cause, ApplicationError) else None


def _cause(failure: FailureError) -> str:
    return str(failure.cause or failure) if failure.failure is None else failure_text(failure.failure)
