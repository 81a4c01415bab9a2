"""The undo of an external step: verifies it if needed, and compensates it once, under its own idempotency key.

A step whose call was not seen to happen is barred and counts as undone. An attempt that returns later finds the bar,
records its result nevertheless, and makes sure that it is undone: by its saga's undo, which looks again before it ends,
or by itself after the saga's end. If its worker dies in between, the saga no longer has a driver; `orphaned_effects`
finds such steps, and those for which the external service should be asked a second time.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, false, or_, select, tuple_

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.commands import Phase, SagaRef, StepCommand, StepState, UndoCommand, Undone, UndoReply
from orchestrator.protocol.containment import contained
from orchestrator.protocol.messages.envelope import read
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.external.verification import (
    AnyExternal,
    compensation_key,
    external_call,
    external_operation_of,
    external_row,
    find_out,
    idempotency_key,
    settle_attempt,
    swapped,
    verified,
)
from orchestrator.store.saga.fence import recordable
from orchestrator.store.saga.undo import counting_failure, why_not_undone

UNDO_PHASES = (Phase.UNDOING.value, Phase.FAILED.value, Phase.CANCELLED.value)
"""The phases of a saga in which every effect of its steps must be undone."""
NOTHING_RETURNED = "null"
"""The recorded result of a refused step that has happened nevertheless, if its operation returns nothing."""
LOOK_AGAIN_AFTER = timedelta(minutes=10)
"""How long after its last attempt a barred step is verified a second time."""
_ENDED = (Phase.FAILED.value, Phase.CANCELLED.value)
_ANY = tuple(phase.value for phase in Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedEffect:
    """An external step whose effect remains, or may remain, although it should be undone, and that has no driver."""

    saga: SagaRef
    number: int
    operation: str
    event_time: str
    """RFC 3339."""
    state: StepState
    """`done` or `refused`: the effect exists. `barred`: the external service is to be asked again."""


async def undo_external_step(database: Database, catalog: Catalog, command: UndoCommand) -> UndoReply:
    """Undo an external step: find out whether it happened, and compensate it if it did.

    Raises:
        OutcomeUnknown: there is no verification to ask.
        Exception: whatever the compensation or the verification raised; the attempt is counted on the step's row.
    """
    async with counting_failure(database, command):
        return await _undo(database, catalog, command, (Phase.UNDOING.value,))


async def undo_late_effect(
    database: Database, catalog: Catalog, command: StepCommand, *, came_late: bool = False
) -> None:
    """Undo the late effect of a settled step, unless the undo of its saga will do so. Safe to repeat.

    Args:
        database: the home database.
        catalog: the application's operations.
        command: the attempt that found the effect.
        came_late: whether the effect is this attempt's own result, which no other driver has seen. Otherwise an undoing
            saga's effects are left to its undo, which keeps the order from the last step to the first.
    """
    row = await external_row(database, command.saga, command.number)
    if row is None or not _is_compensable(row):
        return
    undo = UndoCommand(
        saga=command.saga, number=command.number, operation=command.operation, event_time=command.event_time
    )
    phases = _undo_phases(row.state, UNDO_PHASES if came_late else _ENDED)
    async with counting_failure(database, undo):
        await _undo(database, catalog, undo, phases)


async def orphaned_effects(
    database: Database,
    *,
    now: datetime,
    grace: timedelta = timedelta(seconds=30),
    after: OrphanedEffect | None = None,
    limit: int = 200,
) -> Sequence[OrphanedEffect]:
    """Return a page of the effects that dead workers left behind; recovery passes each to `undo_orphan`.

    Args:
        database: the home database.
        now: the current time.
        grace: how long the attempt that found an effect has to undo it itself.
        after: the last item of the previous page.
        limit: how many steps a page has.
    """
    has_effect = or_(
        and_(saga_step.c.state == StepState.DONE.value, saga.c.phase.in_(_ENDED)),
        and_(saga_step.c.state == StepState.REFUSED.value, saga_step.c.result.is_not(None)),
    )
    # A `done_at` in the future was written by a worker whose clock was ahead.
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
            # Empty for every settled step, so few rows are left to check.
            saga_step.c.attempted_at.is_not(None),
            or_(
                and_(has_effect, settled),
                and_(unsure, saga_step.c.attempted_at <= now - LOOK_AGAIN_AFTER),
            ),
        )
        .order_by(saga_step.c.saga_id, saga_step.c.number)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(saga_step.c.saga_id, saga_step.c.number) > (after.saga.id, after.number))
    async with database.reading() as connection:
        return [_orphaned_effect(row) for row in await connection.execute(statement)]


async def undo_orphan(database: Database, catalog: Catalog, orphan: OrphanedEffect) -> bool:
    """Undo an effect that a dead worker left behind, or verify a barred step again. Safe to repeat and concurrently.

    Returns:
        Whether there was an effect to undo.

    Raises:
        Exception: whatever the compensation or the verification raised; the effect will be found again.
    """
    undo = UndoCommand(saga=orphan.saga, number=orphan.number, operation=orphan.operation, event_time=orphan.event_time)
    if orphan.state is StepState.BARRED and not await _happened_after_all(database, catalog, undo):
        return False
    async with counting_failure(database, undo):
        await _undo(database, catalog, undo, _undo_phases(orphan.state, _ENDED))
    return True


async def _undo(database: Database, catalog: Catalog, command: UndoCommand, phases: tuple[str, ...]) -> UndoReply:
    """Verify and compensate until no effect of the step remains; a swap that came too late changes nothing.

    The phase is checked before any external call. A saga that is or was undone never becomes forward or completed
    again, so what may be undone once may be undone at any later time.
    """
    operation = external_operation_of(catalog, command.operation)
    while True:
        row = await external_row(database, command.saga, command.number)
        if row is None or row.saga_phase not in phases:
            return await _why_not_undone(database, command)
        if row.state == StepState.ATTEMPTING.value:
            await _settle(database, operation, command, row, phases)
        elif _is_compensable(row):
            await _compensate(operation, command, row)
            values: dict[str, Any] = {
                "undone_at": clock.now(),
                "undo_attempts": saga_step.c.undo_attempts + 1,
                "attempted_at": None,
            }
            if row.state == StepState.DONE.value:
                values["state"] = StepState.UNDONE.value
            async with database.transaction() as connection:
                is_swapped = await swapped(
                    connection,
                    command.saga.id,
                    command.number,
                    phases,
                    saga_step.c.state == row.state,
                    saga_step.c.undone_at.is_(None),
                    **values,
                )
            if is_swapped:
                return Undone(number=command.number)
        else:
            return await _why_not_undone(database, command)


async def _settle(
    database: Database, operation: AnyExternal, command: UndoCommand, row: Row[Any], phases: tuple[str, ...]
) -> None:
    call = external_call(command.saga, command.event_time, idempotency_key(command.saga, command.number), row.attempts)
    confirmation = await find_out(operation, call, row)
    if confirmation is None:
        await settle_attempt(database, command.saga, row, StepState.BARRED, phases)
    else:
        _, recorded = recordable(operation, confirmation.result)
        await settle_attempt(database, command.saga, row, StepState.DONE, phases, result=recorded)


async def _happened_after_all(database: Database, catalog: Catalog, command: UndoCommand) -> bool:
    """Verify a barred step a second time, because a request may have been in flight longer than its time limit."""
    operation = external_operation_of(catalog, command.operation)
    row = await external_row(database, command.saga, command.number)
    if row is None or row.state != StepState.BARRED.value:
        return row is not None and row.state == StepState.DONE.value
    call = external_call(command.saga, command.event_time, idempotency_key(command.saga, command.number), row.attempts)
    confirmation = await verified(operation, call, json.loads(row.arguments))
    values: dict[str, Any] = {"attempted_at": None}
    if confirmation is not None:
        _, recorded = recordable(operation, confirmation.result)
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
    return confirmation is not None


async def _compensate(operation: AnyExternal, command: UndoCommand, row: Row[Any]) -> None:
    if operation.undo is None:
        raise OrchestratorError(
            f"{operation.name} is to be undone, but this worker's code has no compensation for it. Deploy code that "
            "has one, or undo its effect by hand and skip the step"
        )
    call = external_call(
        command.saga, command.event_time, compensation_key(command.saga, command.number), row.undo_attempts + 1
    )
    result = None if row.result is None else json.loads(row.result)
    wanted = operation.recorded(operation.undo.wants, json.loads(row.arguments), result)
    async with asyncio.timeout(operation.time_limit.total_seconds()):
        with contained(f"the compensation of {operation.name}"):
            await operation.undo.body(call, **wanted)


def _undo_phases(state: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Return the phases in which a step is undone.

    An effect that arrived after a refusal is undone in every phase, because `handle` has seen a refusal.
    """
    return _ANY if state == StepState.REFUSED.value else otherwise


def _is_compensable(row: Row[Any]) -> bool:
    """Whether the step has an effect that can be undone and has not been."""
    if row.irreversible or row.undone_at is not None:
        return False
    return row.state == StepState.DONE.value or (row.state == StepState.REFUSED.value and row.result is not None)


async def _why_not_undone(database: Database, command: UndoCommand) -> UndoReply:
    async with database.reading() as connection:
        return await why_not_undone(connection, command)


def _orphaned_effect(row: Any) -> OrphanedEffect:
    saga_id: UUID = row.saga_id
    return OrphanedEffect(
        saga=SagaRef(id=saga_id, orchestrator=row.orchestrator, event_id=row.event_id),
        number=row.number,
        operation=row.operation,
        event_time=read(row.envelope).time.isoformat(),
        state=StepState(row.state),
    )
