"""The Temporal activities of operations and compensations, and the engine's own activities."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.api.failure.v1 import Failure
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from orchestrator.definition.atomic import ATOMIC
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError, storable
from orchestrator.external import ExternalOperation
from orchestrator.operation import PIVOT, Operation, Reversal
from orchestrator.protocol import names
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    MarkStuckCommand,
    StepCommand,
    StepRefused,
    StepReply,
    UndoCommand,
    UndoReply,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.messages.dead_letters import DeadLetterPiece
from orchestrator.protocol.messages.validation_errors import describe
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW
from orchestrator.retry import DEFAULT_RETRY, Retry
from orchestrator.store.dead_letters.intake import store_piece
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.attempt_failure import attempt_failed
from orchestrator.worker.fault_log import AttemptFailed
from orchestrator.worker.last_failure import last_failure
from orchestrator.worker.step_retries import after_failure, describe_attempts, undo_retry, wait_of
from orchestrator.workflow.failures import failure_text, was_cut_off
from orchestrator.workflow.local_first import LOCAL_REPLY, REPLY_TOO_LARGE

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

FEWEST_ATTEMPTS = 3
"""A step gets this many attempts even if its deadline passes earlier, for example while no worker runs."""
_BEAT = 1.0
"""Seconds between two heartbeats."""
_LAST_MESSAGE = 1_800
"""The maximum number of characters of the last attempt's message that the error of a step contains when the step is
given up."""
_PUBLISHERS = (PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW)
"""The workflow types that drive no saga but may receive unreadable messages."""


def activities_of(catalog: Catalog, steps: StoreSteps) -> list[Callable[..., Any]]:
    """Return the activities of all sagas of an application, for a Temporal `Worker`."""
    activities: list[Callable[..., Any]] = []
    own: tuple[Operation[..., Any], ...] = (PIVOT, ATOMIC)
    for operation in (*own, *catalog.operations.values()):
        activities.append(_operation_activity(operation, steps))
        if operation.undo is not None:
            activities.append(_compensation_activity(operation.undo.name, steps))
    return [*activities, *_engine_activities(steps)]


def _operation_activity(operation: Operation[..., Any], steps: StoreSteps) -> Callable[..., Any]:
    @activity.defn(name=operation.name)
    async def run(*arguments: RawValue) -> StepReply:
        command = _command(StepCommand, arguments, steps.catalog)
        info, began = activity.info(), monotonic()
        may_give_up = not command.past_pivot
        try:
            called = steps.catalog.called(command.operation, command.arguments)
        except OrchestratorError as fault:
            # The atomic step was started by newer code. It is retried, because another worker may know its operations.
            raise attempt_failed(fault, steps.databases, final=False) from fault
        deadline, most = called.deadline, called.retry.attempts
        _wait_after_local_attempt(command.failed_locally, called.retry)
        was_overdue = info.attempt > FEWEST_ATTEMPTS + 1 and _is_overdue(info, deadline, began)
        was_last = most is not None and info.attempt > most
        last = await last_failure() if may_give_up and (was_overdue or was_last) else None
        if last is not None and was_cut_off(last):
            # The previous attempt may have killed its worker. Then the operation must not run again.
            given_up = _describe_give_up(info.attempt - 1, deadline if was_overdue else None)
            raise _given_up_error(given_up, last)
        if may_give_up and was_overdue:
            settled = await _report_failure(steps.settle(command), steps) if _needs_settling(operation) else None
            if settled is None:
                raise _given_up_error(_describe_give_up(info.attempt - 1, deadline), last)
            reply = settled
        else:
            try:
                reply = await _with_heartbeats(steps.run(command, deadline, attempt=info.attempt))
            except Exception as fault:
                is_overdue = may_give_up and _is_overdue(info, deadline, began)
                after = after_failure(called, fault, info.attempt, past_pivot=command.past_pivot)
                final = is_overdue or after.is_final
                needs_settling = final and _needs_settling(operation)
                settled = await _report_failure(steps.settle(command), steps) if needs_settling else None
                if settled is None:
                    is_late = is_overdue and not after.is_final
                    note = f"; {_describe_give_up(info.attempt, deadline)}" if is_late else after.note
                    raise _attempt_failed(fault, steps, final=final, note=note, wait=after.wait) from fault
                reply = settled
        _check_local_reply(reply)
        if isinstance(reply, StepRefused):
            raise ApplicationError(
                reply.message,
                reply.model_dump(mode="json"),
                type=reply.code,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            )
        return reply

    return run


def _needs_settling(operation: Operation[..., Any]) -> bool:
    """Return whether a given-up step may have had an effect that cannot be undone."""
    return isinstance(operation, ExternalOperation) and operation.reversal is Reversal.IRREVERSIBLE


def _compensation_activity(name: str, steps: StoreSteps) -> Callable[..., Any]:
    @activity.defn(name=name)
    async def run(*arguments: RawValue) -> UndoReply:
        command = _command(UndoCommand, arguments, steps.catalog)
        retry = undo_retry(steps.catalog, command)
        _wait_after_local_attempt(command.failed_locally, retry)
        return await _report_failure(steps.undo(command, name), steps, retry)

    return run


def _engine_activities(steps: StoreSteps) -> list[Callable[..., Any]]:
    @activity.defn(name=names.BEGIN_WAIT)
    async def begin_wait(*arguments: RawValue) -> WaitReply:
        command = _command(WaitCommand, arguments, steps.catalog)
        return await _report_failure(steps.begin_wait(command), steps)

    @activity.defn(name=names.END_WAIT)
    async def end_wait(*arguments: RawValue) -> StepReply:
        command = _command(EndWaitCommand, arguments, steps.catalog)
        return await _report_failure(steps.end_wait(command), steps)

    @activity.defn(name=names.BEGIN_UNDO)
    async def begin_undo(*arguments: RawValue) -> BeginUndoReply:
        command = _command(BeginUndoCommand, arguments, steps.catalog)
        return await _report_failure(steps.begin_undo(command), steps)

    @activity.defn(name=names.FINISH)
    async def finish(*arguments: RawValue) -> FinishReply:
        command = _command(FinishCommand, arguments, steps.catalog)
        return await _report_failure(steps.finish(command), steps)

    @activity.defn(name=names.MARK_STUCK)
    async def mark_stuck(*arguments: RawValue) -> None:
        command = _command(MarkStuckCommand, arguments, steps.catalog)
        await _report_failure(steps.mark_stuck(command), steps)

    @activity.defn(name=names.DEAD_LETTER)
    async def dead_letter(*arguments: RawValue) -> int:
        piece = _command(DeadLetterPiece, arguments, steps.catalog, also=_PUBLISHERS)
        info = activity.info()
        storing = store_piece(
            steps.database, piece, workflow_id=info.workflow_id or "", run_id=info.workflow_run_id or ""
        )
        return await _report_failure(storing, steps)

    return [begin_wait, end_wait, begin_undo, finish, mark_stuck, dead_letter]


def _command(expected: type[M], arguments: Sequence[RawValue], catalog: Catalog, *, also: Collection[str] = ()) -> M:
    """Read the command that a saga's execution sends. Other workflows are refused, because they never undo a step."""
    info = activity.info()
    is_known = info.workflow_type in catalog.orchestrators or info.workflow_type in also
    if info.workflow_id is None or not is_known or len(arguments) != 1:
        raise ApplicationError(
            f"{info.activity_type} runs only as a step of a saga. Publish an event that an orchestrator listens to.",
            type="saga.required",
            # A workflow's request is retried, because another worker may have newer code that knows its orchestrator.
            non_retryable=info.workflow_id is None,
        )
    try:
        return expected.model_validate_json(arguments[0].payload.data)
    except ValidationError as fault:
        # Retried, because the workflow's engine may be newer than this worker's.
        raise ApplicationError(f"{info.activity_type}: {describe(fault)}", type="saga.unreadable_command") from None


async def _with_heartbeats(work: Awaitable[R]) -> R:
    """Await work and send heartbeats. A local activity needs none, because its workflow task has a timeout."""
    if activity.info().is_local:
        return await work

    async def beat() -> None:
        while True:
            await asyncio.sleep(_BEAT)
            activity.heartbeat()

    beats = asyncio.create_task(beat())
    try:
        return await work
    finally:
        beats.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beats


def _check_local_reply(reply: R) -> R:
    """Return the reply, unless it is too large for a local activity's marker.

    Raises:
        ApplicationError: the reply is too large. The database has it, and the regular activity that follows reads it.
    """
    if activity.info().is_local and isinstance(reply, BaseModel):
        size = len(reply.model_dump_json().encode())
        if size > LOCAL_REPLY:
            raise ApplicationError(
                f"The step has ended. Its reply of {size:,} bytes is too large for a local activity, "
                "so a regular activity returns it.",
                type=REPLY_TOO_LARGE,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            )
    return reply


async def _report_failure(work: Awaitable[R], steps: StoreSteps, retry: Retry = DEFAULT_RETRY) -> R:
    """Await work; log and report an error as a failed attempt that Temporal retries."""
    try:
        return _check_local_reply(await _with_heartbeats(work))
    except ApplicationError:
        raise
    except Exception as fault:
        wait = wait_of(retry, activity.info().attempt)
        raise _attempt_failed(fault, steps, final=False, wait=wait) from fault


def _attempt_failed(
    fault: Exception, steps: StoreSteps, *, final: bool, note: str = "", wait: timedelta | None
) -> AttemptFailed:
    """Report a failed attempt. A local activity cannot keep declared waits, so a regular one continues it."""
    hands_over = activity.info().is_local and wait is not None and not final
    return attempt_failed(fault, steps.databases, final=final, note=note, wait=wait, is_handed_over=hands_over)


def _wait_after_local_attempt(error: str | None, retry: Retry) -> None:
    """End the first attempt of a regular activity that continues a local one, so that the declared wait comes first.

    It counts as the attempt that was made locally.

    Raises:
        ApplicationError: this is that attempt. It repeats the local attempt's error, for people who look meanwhile.
    """
    info = activity.info()
    if error is not None and info.attempt == 1 and not info.is_local:
        kind, _, message = error.partition(": ")
        raise ApplicationError(message or kind, type=kind, next_retry_delay=retry.wait_after(1))


def _describe_give_up(attempts: int, deadline: timedelta | None) -> str:
    """Say after how many attempts a step was given up and, if that was the reason, that its deadline had passed."""
    late = "" if deadline is None else f", past its deadline of {deadline}"
    return f"{describe_attempts(attempts)}{late}"


def _given_up_error(given_up: str, last: Failure | None) -> ApplicationError:
    """Return the error of a step that is given up. It repeats the last attempt's error, if that is known."""
    kind = "" if last is None or was_cut_off(last) else last.application_failure_info.type
    if last is None:
        return ApplicationError(given_up, type="DeadlineExceeded", non_retryable=True)
    message = failure_text(last).removeprefix(f"{kind}: ")
    return ApplicationError(
        storable(f"{message[:_LAST_MESSAGE]}; {given_up}"), type=kind or "DeadlineExceeded", non_retryable=True
    )


def _is_overdue(info: activity.Info, deadline: timedelta, began: float) -> bool:
    """Return whether a step's deadline has passed.

    This worker's clock does not matter. Both times come from the Temporal server, or both from this process for a local
    activity. The duration of the current attempt, which began at `began`, is measured with the monotonic clock.
    """
    elapsed = info.started_time - info.scheduled_time + timedelta(seconds=monotonic() - began)
    return info.attempt >= FEWEST_ATTEMPTS and elapsed > deadline
