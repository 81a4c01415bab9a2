"""The driver's port through Temporal: every step, turn, undoing and finish is an activity.

An activity is retried by Temporal; what it did is decided by the database, so a repeat is harmless. A step is given up
by the activity itself once its deadline is past (see `orchestrator.worker.activities`), so that a time without any
worker does not count as failing.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, is_cancelled_exception

from orchestrator.drive.messages import (
    Diverged,
    FinishCommand,
    FinishReply,
    Outcome,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
    StuckCommand,
    TurnCommand,
    TurnReply,
    UndoCommand,
    UndoPlan,
    UndoReply,
)
from orchestrator.drive.steps import CancelRequested, StepFailed
from orchestrator.workflow import names
from orchestrator.workflow.attributes import SAGA_STATUS, upsert
from orchestrator.workflow.details import StepsTable


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one attempt of an activity may take, and how soon a dead worker is noticed."""

    attempt: timedelta = timedelta(seconds=30)
    """One attempt, from its start to its end."""
    heartbeat: timedelta = timedelta(seconds=4)
    """Silence after which an attempt's worker is taken for dead; attempts beat by themselves."""


_STEP_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=30))
_ENDLESS_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(minutes=1))
_TIMEOUTS = Timeouts()
_BEGUN_ANEW = timedelta(minutes=1)


class TemporalSteps:
    """`Steps` by activities on the execution's own task queue."""

    def __init__(self, table: StepsTable) -> None:
        self._table = table
        self._operations: dict[int, str] = {}

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Run a step; retried until the activity gives up.

        Raises:
            StepFailed: it gave up.
            CancelRequested: the execution was cancelled.
        """
        self._show(command.number, "running", command.operation)
        try:
            reply: StepReply = await self._activity(
                command.operation, command, StepReply, f"step {command.number}", _STEP_RETRIES
            )
        except ActivityError as failure:
            if is_cancelled_exception(failure):
                self._show(command.number, "cancelled")
                raise CancelRequested from failure
            refused = _refusal(failure)
            if refused is None:
                self._show(command.number, "failed")
                raise StepFailed(f"step {command.number}, {command.operation}: {_cause(failure)}") from failure
            reply = refused
        match reply:
            case StepDone():
                self._show(command.number, "done")
            case StepRefused():
                self._show(command.number, f"refused: {reply.code}")
            case Diverged():
                self._show(command.number, "stuck: not what was recorded")
            case _:
                self._show(command.number, "decided elsewhere")
        return reply

    async def turn(self, command: TurnCommand) -> TurnReply:
        """Turn to undoing."""
        reply: TurnReply = await self._insist(names.TURN, command, TurnReply, command.error_code)
        if isinstance(reply, UndoPlan):
            upsert(SAGA_STATUS.value_set("undoing"))
            for step in reply.steps:
                self._show(step.number, "to be undone", step.operation)
        return reply

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step; retried without end."""
        self._show(command.number, f"undoing: `{compensation}`")
        reply: UndoReply = await self._insist(compensation, command, UndoReply, f"undo step {command.number}")
        self._show(command.number, f"undone: `{compensation}`")
        return reply

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        summary = "completed" if command.completed is not None else "undone"
        reply: FinishReply = await self._insist(names.FINISH, command, FinishReply, summary)
        if isinstance(reply, Outcome):
            self._table.title = reply.phase.value
            workflow.set_current_details(self._table.markdown())
        return reply

    async def stick(self, command: StuckCommand) -> None:
        """Show that the saga waits for a person."""
        upsert(SAGA_STATUS.value_set("stuck"))
        self._table.title = f"stuck: {command.error}"
        workflow.set_current_details(self._table.markdown())
        await self._insist(names.STICK, command, None, f"stuck at step {command.number}")

    async def _insist(self, name: str, argument: Any, result: Any, summary: str) -> Any:
        """An activity that must be done, however it fails: what fails for good is begun anew, after a while.

        Its error must not end the execution: the saga would stay without an outcome.
        """
        while True:
            try:
                return await self._activity(name, argument, result, summary, _ENDLESS_RETRIES)
            except ActivityError as failure:
                if is_cancelled_exception(failure):
                    raise
                self._table.title = f"{summary}: {_cause(failure)}"
                workflow.set_current_details(self._table.markdown())
                await workflow.sleep(_BEGUN_ANEW)

    async def _activity(self, name: str, argument: Any, result: Any, summary: str, retries: RetryPolicy) -> Any:
        return await workflow.execute_activity(
            name,
            argument,
            result_type=result,
            start_to_close_timeout=_TIMEOUTS.attempt,
            heartbeat_timeout=_TIMEOUTS.heartbeat,
            retry_policy=retries,
            summary=summary,
        )

    def _show(self, number: int, state: str, operation: str | None = None) -> None:
        if operation is not None:
            self._table.set(number, operation, state)
        else:
            self._table.say(number, state)
        workflow.set_current_details(self._table.markdown())


def _refusal(failure: ActivityError) -> StepRefused | None:
    """A refusal travels as a failure, so that the Web UI shows the step as failed; its reply is in the details."""
    cause = failure.cause
    if not isinstance(cause, ApplicationError) or not cause.details:
        return None
    detail = cause.details[0]
    if not isinstance(detail, RawValue):
        return None
    return StepRefused.model_validate_json(detail.payload.data)


def _cause(failure: ActivityError) -> str:
    match failure.cause:
        case ApplicationError() as error:
            return f"{error.type}: {error.message}" if error.type else error.message
        case TimeoutError():
            return "no attempt ended in time"
        case other:
            return str(other)
