"""Activities: each operation, each compensation, and the engine's own, as Temporal sees them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from orchestrator.atomic import ATOMIC
from orchestrator.catalog import Catalog
from orchestrator.drive.messages import (
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    StepCommand,
    StepRefused,
    StepReply,
    StuckCommand,
    TurnCommand,
    TurnReply,
    UndoCommand,
    UndoReply,
    WaitCommand,
    WaitReply,
)
from orchestrator.envelope import describe
from orchestrator.errors import MESSAGE_LIMIT, OrchestratorError, TransactionMisuse, UsageError, storable
from orchestrator.external import ExternalOperation
from orchestrator.operation import PIVOT, Operation, Reversal
from orchestrator.reserved import PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW
from orchestrator.store.dead_letters import keep_piece
from orchestrator.store.fence import ResultTooLarge
from orchestrator.store.steps import StoreSteps
from orchestrator.workflow import names
from orchestrator.workflow.dead_letters import DeadLetterPiece
from orchestrator.workflow.local_first import LOCAL_REPLY, REPLY_TOO_LARGE

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

FEWEST_ATTEMPTS = 3
"""A step is tried this often even if its deadline has passed meanwhile, for example while no worker ran."""
_BEAT = 1.0
_PUBLISHERS = (PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW)
"""Workflows that have no saga, and may be sent what cannot be read all the same."""
_AUTHORS_MISTAKES = (TransactionMisuse, UsageError, ResultTooLarge)
"""The same again however often it is tried: the saga is undone at once, and its author learns at once."""


def activities_of(catalog: Catalog, steps: StoreSteps) -> list[Callable[..., Any]]:
    """Every activity of an application, for a Temporal `Worker`."""
    made: list[Callable[..., Any]] = []
    own: tuple[Operation[..., Any], ...] = (PIVOT, ATOMIC)
    for operation in (*own, *catalog.operations.values()):
        made.append(_operation_activity(operation, steps))
        if operation.undo is not None:
            made.append(_compensation_activity(operation.undo.name, steps))
    return [*made, *_engine_activities(steps)]


def _operation_activity(operation: Operation[..., Any], steps: StoreSteps) -> Callable[..., Any]:
    @activity.defn(name=operation.name)
    async def run(*arguments: RawValue) -> StepReply:
        command = _command(StepCommand, arguments, steps.catalog)
        info = activity.info()
        may_give_up = not command.past_pivot
        try:
            deadline = steps.catalog.called(command.operation, command.arguments).deadline
        except OrchestratorError as fault:
            raise _failure(fault, final=False) from None  # an atomic step of newer code: another worker takes it
        if may_give_up and info.attempt > FEWEST_ATTEMPTS + 1 and _is_overdue(info, deadline):
            # An attempt that takes its worker down never gets to say that it failed: say so for it.
            raise ApplicationError(
                f"not done in {info.attempt - 1} attempts and {deadline}",
                type="DeadlineExceeded",
                non_retryable=True,
            )
        try:
            reply = await _beating(steps.run(command, deadline, attempt=info.attempt))
        except Exception as fault:
            final = may_give_up and (isinstance(fault, _AUTHORS_MISTAKES) or _is_overdue(info, deadline))
            settled = await _told(steps.settle(command)) if final and _leaves_a_doubt(operation) else None
            if settled is None:
                raise _failure(fault, final=final) from _told_cause(fault)
            reply = settled
        if isinstance(reply, StepRefused):
            raise ApplicationError(
                reply.message,
                reply.model_dump(mode="json"),
                type=reply.code,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            )
        return _carried(reply)

    return run


def _leaves_a_doubt(operation: Operation[..., Any]) -> bool:
    """Whether a step that is given up may have happened, and could not be undone then."""
    return isinstance(operation, ExternalOperation) and operation.reversal is Reversal.IRREVERSIBLE


def _compensation_activity(name: str, steps: StoreSteps) -> Callable[..., Any]:
    @activity.defn(name=name)
    async def run(*arguments: RawValue) -> UndoReply:
        command = _command(UndoCommand, arguments, steps.catalog)
        return await _told(steps.undo(command, name))

    return run


def _engine_activities(steps: StoreSteps) -> list[Callable[..., Any]]:
    @activity.defn(name=names.BEGIN_WAIT)
    async def begin_wait(*arguments: RawValue) -> WaitReply:
        command = _command(WaitCommand, arguments, steps.catalog)
        return await _told(steps.begin_wait(command))

    @activity.defn(name=names.END_WAIT)
    async def end_wait(*arguments: RawValue) -> StepReply:
        command = _command(EndWaitCommand, arguments, steps.catalog)
        return await _told(steps.end_wait(command))

    @activity.defn(name=names.TURN)
    async def turn(*arguments: RawValue) -> TurnReply:
        command = _command(TurnCommand, arguments, steps.catalog)
        return await _told(steps.turn(command))

    @activity.defn(name=names.FINISH)
    async def finish(*arguments: RawValue) -> FinishReply:
        command = _command(FinishCommand, arguments, steps.catalog)
        return await _told(steps.finish(command))

    @activity.defn(name=names.STICK)
    async def stick(*arguments: RawValue) -> None:
        command = _command(StuckCommand, arguments, steps.catalog)
        await _told(steps.stick(command))

    @activity.defn(name=names.DEAD_LETTER)
    async def dead_letter(*arguments: RawValue) -> int:
        piece = _command(DeadLetterPiece, arguments, steps.catalog, also=_PUBLISHERS)
        info = activity.info()
        kept = keep_piece(
            steps.database,
            door=piece.door,
            workflow_id=info.workflow_id or "",
            run_id=info.workflow_run_id or "",
            position=piece.position,
            code=piece.code,
            reason=piece.reason,
            size=piece.size,
            offset=piece.offset,
            raw=piece.raw,
        )
        return await _told(kept)

    return [begin_wait, end_wait, turn, finish, stick, dead_letter]


def _command(expected: type[M], arguments: Sequence[RawValue], catalog: Catalog, *, also: Collection[str] = ()) -> M:
    """What a saga's execution asks for. An operation run by anybody else would never be undone: refuse."""
    info = activity.info()
    known = info.workflow_type in catalog.orchestrators or info.workflow_type in also
    if info.workflow_id is None or not known or len(arguments) != 1:
        raise ApplicationError(
            f"{info.activity_type} runs only as a step of a saga. Publish an event that an orchestrator listens to.",
            type="saga.required",
            # An orchestrator that this worker does not know may be newer than it: another worker takes the retry.
            non_retryable=info.workflow_id is None,
        )
    try:
        return expected.model_validate_json(arguments[0].payload.data)
    except ValidationError as fault:
        # Retried: the workflow may be of a newer engine than this worker.
        raise ApplicationError(f"{info.activity_type}: {describe(fault)}", type="saga.unreadable_command") from None


async def _beating(work: Awaitable[R]) -> R:
    """Await work while telling Temporal that this worker lives. A local activity's workflow task tells it."""
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


def _carried(reply: R) -> R:
    """A reply that a marker can carry. Too large, it is kept by the database: the regular activity gets it there."""
    if activity.info().is_local and isinstance(reply, BaseModel):
        size = len(reply.model_dump_json().encode())
        if size > LOCAL_REPLY:
            raise ApplicationError(
                f"done; the reply takes {size:,} bytes, and comes with the regular activity",
                type=REPLY_TOO_LARGE,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            )
    return reply


async def _told(work: Awaitable[R]) -> R:
    try:
        return _carried(await _beating(work))
    except ApplicationError:
        raise
    except Exception as fault:
        raise _failure(fault, final=False) from _told_cause(fault)


def _failure(fault: Exception, *, final: bool) -> ApplicationError:
    """An error as the Web UI shows it: its type, and its text cut to a size that a history can carry."""
    return ApplicationError(storable(str(fault)), type=type(fault).__name__, non_retryable=final)


def _told_cause(fault: Exception) -> Exception | None:
    """The error itself, with its trace for the Web UI, unless its texts are larger than a history should carry."""
    size, one = 0, cast(BaseException | None, fault)
    while one is not None and size <= 4 * MESSAGE_LIMIT:
        size += len(str(one))
        one = one.__cause__ or one.__context__
    return fault if size <= 4 * MESSAGE_LIMIT else None


def _is_overdue(info: activity.Info, deadline: timedelta) -> bool:
    return info.attempt >= FEWEST_ATTEMPTS and datetime.now(UTC) - info.scheduled_time > deadline
