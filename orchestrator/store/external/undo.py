"""External steps on their way back: asked about where nobody knows, taken back with a key of their own, never twice.

A step of which nothing was seen is barred, and passes for undone. An attempt that comes back after that finds the bar,
writes its result down all the same, and sees that it is taken back: by its saga's undoing, which looks again before it
ends, or after the end by itself. If its worker dies in between, nobody drives the saga any more: `left_standing` finds
such steps, and those that are worth a second look at the other side.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, false, or_, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.commands import Phase, SagaRef, StepCommand, StepState, UndoCommand, Undone, UndoReply
from orchestrator.protocol.containment import contained
from orchestrator.protocol.envelope import read
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.error_text import error_text
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.external.verification import (
    AnyExternal,
    compensation_key,
    external_call,
    external_operation_of,
    external_row,
    fate,
    idempotency_key,
    settle_attempt,
    swapped,
    verified,
)
from orchestrator.store.saga.fence import recordable
from orchestrator.store.saga.undo import count_undo_failure, why_not_undone

GOES_BACK = (Phase.UNDOING.value, Phase.FAILED.value, Phase.CANCELLED.value)
"""Phases in which no effect of a step may stand in the end."""
NOTHING_RETURNED = "null"
"""Stands as the result of a refused step that has happened all the same, if its operation returns nothing."""
LOOK_AGAIN_AFTER = timedelta(minutes=10)
"""When the other side is asked once more about a step that was barred."""
_ENDED = (Phase.FAILED.value, Phase.CANCELLED.value)
_ANY = tuple(phase.value for phase in Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedEffect:
    """An external step whose effect stands though it should not, or may stand, and that nobody is going to undo."""

    saga: SagaRef
    number: int
    operation: str
    event_time: str
    """RFC 3339."""
    state: StepState
    """`done` or `refused`: it stands. `barred`: it is to be looked at again."""


async def undo_external_step(database: Database, catalog: Catalog, command: UndoCommand) -> UndoReply:
    """Undo an external step: ask whether it happened if nobody knows, and take it back if it did.

    Raises:
        FateUnknown: there is no verification to ask.
        Exception: what the compensation or the verification raised; the attempt is counted on the step's row.
    """
    return await _counted(database, catalog, command, (Phase.UNDOING.value,))


async def take_back_late(
    database: Database, catalog: Catalog, command: StepCommand, *, came_late: bool = False
) -> None:
    """Take back what stands of a step after it was settled otherwise, if nobody else is sure to. Safe to repeat.

    Args:
        database: the home database.
        catalog: knows the operation.
        command: the attempt that met the step.
        came_late: it is this attempt's own result, which nobody had seen. Otherwise a saga that is undoing is left to
            its undoing, which goes from the last step to the first.
    """
    row = await external_row(database, command.saga, command.number)
    if row is None or not _stands(row):
        return
    undo = UndoCommand(
        saga=command.saga, number=command.number, operation=command.operation, event_time=command.event_time
    )
    await _counted(database, catalog, undo, _phases_of(row.state, GOES_BACK if came_late else _ENDED))


async def left_standing(
    database: Database,
    *,
    now: datetime,
    grace: timedelta = timedelta(seconds=30),
    after: OrphanedEffect | None = None,
    limit: int = 200,
) -> Sequence[OrphanedEffect]:
    """A page of external steps that a dead worker left: for recovery, which hands each to `take_back_left`.

    Args:
        database: the home database.
        now: the time.
        grace: how long the attempt that found an effect has to take it back itself.
        after: the last one of the page before.
        limit: steps a page.
    """
    stands = or_(
        and_(saga_step.c.state == StepState.DONE.value, saga.c.phase.in_(_ENDED)),
        and_(saga_step.c.state == StepState.REFUSED.value, saga_step.c.result.is_not(None)),
    )
    # What is done in the future was written by a worker whose clock was ahead.
    settled = or_(saga_step.c.done_at <= now - grace, saga_step.c.done_at > clock.now_plus(clock.AHEAD))
    unsure = and_(saga_step.c.state == StepState.BARRED.value, saga.c.phase.in_(_ENDED))
    statement = (
        select(
            saga_step.c.saga_id,
            saga_step.c.number,
            saga_step.c.operation,
            saga_step.c.state,
            saga.c.orchestrator,
            saga.c.event_id,
            saga.c.envelope,
        )
        .join(saga, saga.c.id == saga_step.c.saga_id)
        .where(
            saga_step.c.kind == "external",
            saga_step.c.irreversible == false(),
            # Empty wherever a step is settled: few rows are left to look at.
            saga_step.c.attempted_at.is_not(None),
            or_(
                and_(stands, settled),
                and_(unsure, saga_step.c.attempted_at <= now - LOOK_AGAIN_AFTER),
            ),
        )
        .order_by(saga_step.c.saga_id, saga_step.c.number)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(saga_step.c.saga_id, saga_step.c.number) > (after.saga.id, after.number))
    async with database.reading() as connection:
        return [_left(row) for row in await connection.execute(statement)]


async def take_back_left(database: Database, catalog: Catalog, left: OrphanedEffect) -> bool:
    """Take back what a dead worker left; look once more at what was barred. Safe to repeat, and from several at once.

    Returns:
        Whether there was something to take back.

    Raises:
        Exception: what the compensation or the verification raised; it stays to be found again.
    """
    undo = UndoCommand(saga=left.saga, number=left.number, operation=left.operation, event_time=left.event_time)
    if left.state is StepState.BARRED and not await _is_there_after_all(database, catalog, undo):
        return False
    await _counted(database, catalog, undo, _phases_of(left.state, _ENDED))
    return True


async def _counted(database: Database, catalog: Catalog, command: UndoCommand, phases: tuple[str, ...]) -> UndoReply:
    try:
        return await _take_back(database, catalog, command, phases)
    except Exception as fault:
        # What counts is the fault itself: that it could not be counted must not stand in its place.
        with contextlib.suppress(SQLAlchemyError, OSError):
            await count_undo_failure(database, command, error_text(fault))
        raise


async def _take_back(database: Database, catalog: Catalog, command: UndoCommand, phases: tuple[str, ...]) -> UndoReply:
    """Go on until nothing of the step stands. A swap that came too late has changed nothing: then it looks again.

    The phase is looked at before anything is done outside. It never turns forward again, nor to completed, so what
    may be taken back once may be taken back for ever.
    """
    operation = external_operation_of(catalog, command.operation)
    while True:
        row = await external_row(database, command.saga, command.number)
        if row is None or row.saga_phase not in phases:
            return await _why_not_undone(database, command)
        if row.state == StepState.ATTEMPTING.value:
            await _learn(database, operation, command, row, phases)
        elif _stands(row):
            await _compensate(operation, command, row)
            values: dict[str, Any] = {
                "undone_at": clock.now(),
                "undo_attempts": saga_step.c.undo_attempts + 1,
                "attempted_at": None,
            }
            if row.state == StepState.DONE.value:
                values["state"] = StepState.UNDONE.value
            async with database.transaction() as connection:
                is_ours = await swapped(
                    connection,
                    command.saga.id,
                    command.number,
                    phases,
                    saga_step.c.state == row.state,
                    saga_step.c.undone_at.is_(None),
                    **values,
                )
            if is_ours:
                return Undone(number=command.number)
        else:
            return await _why_not_undone(database, command)


async def _learn(
    database: Database, operation: AnyExternal, command: UndoCommand, row: Row[Any], phases: tuple[str, ...]
) -> None:
    call = external_call(command.saga, command.event_time, idempotency_key(command.saga, command.number), row.attempts)
    happened = await fate(operation, call, row)
    if happened is None:
        await settle_attempt(database, command.saga, row, StepState.BARRED, phases)
    else:
        _, recorded = recordable(operation, happened.result)
        await settle_attempt(database, command.saga, row, StepState.DONE, phases, result=recorded)


async def _is_there_after_all(database: Database, catalog: Catalog, command: UndoCommand) -> bool:
    """A second look at a step that was barred: a request may have been on its way for longer than its time limit."""
    operation = external_operation_of(catalog, command.operation)
    row = await external_row(database, command.saga, command.number)
    if row is None or row.state != StepState.BARRED.value:
        return row is not None and row.state == StepState.DONE.value
    call = external_call(command.saga, command.event_time, idempotency_key(command.saga, command.number), row.attempts)
    happened = await verified(operation, call, json.loads(row.arguments))
    values: dict[str, Any] = {"attempted_at": None}
    if happened is not None:
        _, recorded = recordable(operation, happened.result)
        values = {"state": StepState.DONE.value, "result": recorded, "done_at": clock.now()}
    async with database.transaction() as connection:
        await swapped(
            connection,
            command.saga.id,
            command.number,
            _ENDED,
            saga_step.c.state == StepState.BARRED.value,
            **values,
        )
    return happened is not None


async def _compensate(operation: AnyExternal, command: UndoCommand, row: Row[Any]) -> None:
    if operation.undo is None:
        raise OrchestratorError(f"{operation.name} is to be undone, and this worker knows no compensation of it")
    call = external_call(
        command.saga, command.event_time, compensation_key(command.saga, command.number), row.undo_attempts + 1
    )
    result = None if row.result is None else json.loads(row.result)
    wanted = operation.recorded(operation.undo.wants, json.loads(row.arguments), result)
    async with asyncio.timeout(operation.time_limit.total_seconds()):
        with contained(f"the compensation of {operation.name}"):
            await operation.undo.body(call, **wanted)


def _phases_of(state: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """In which phases a step is taken back: what came after a refusal in each, for `handle` heard that it is not."""
    return _ANY if state == StepState.REFUSED.value else otherwise


def _stands(row: Row[Any]) -> bool:
    """Whether the step's effect stands, and can be taken back."""
    if row.irreversible or row.undone_at is not None:
        return False
    return row.state == StepState.DONE.value or (row.state == StepState.REFUSED.value and row.result is not None)


async def _why_not_undone(database: Database, command: UndoCommand) -> UndoReply:
    async with database.reading() as connection:
        return await why_not_undone(connection, command)


def _left(row: Any) -> OrphanedEffect:
    saga_id: UUID = row.saga_id
    return OrphanedEffect(
        saga=SagaRef(id=saga_id, orchestrator=row.orchestrator, event_id=row.event_id),
        number=row.number,
        operation=row.operation,
        event_time=read(row.envelope).time.isoformat(),
        state=StepState(row.state),
    )
