"""External steps: recorded as attempted before the call, verified where their fate is unknown, undone with a key.

The row is `attempting` from before the first call on. A call that failed may have arrived all the same, and may still
be under way at the other side, for as long as its time limit. So an undo believes "it did not happen" only after that
time, and then bars the step: an attempt that comes back later with a result finds the bar, and takes its effect back.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

from pydantic import JsonValue
from sqlalchemy import Row, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.catalog import Catalog
from orchestrator.drive.messages import (
    Decided,
    Phase,
    Resume,
    SagaRef,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
    StepState,
    UndoCommand,
    Undone,
    UndoReply,
)
from orchestrator.envelope import canonical
from orchestrator.errors import OrchestratorError, Refused
from orchestrator.external import ExternalCall, ExternalOperation, Happened
from orchestrator.store.database import Database
from orchestrator.store.fence import (
    Attempting,
    RefusedPastPivot,
    claim,
    phase_under_share_lock,
    recordable,
    recorded_reply,
)
from orchestrator.store.opening import OpenedBefore
from orchestrator.store.schema import saga_step
from orchestrator.store.turn import count_undo_failure, why_not_undone

AnyExternal = ExternalOperation[..., Any]
_ENDED = (Phase.UNDOING.value, Phase.FAILED.value, Phase.CANCELLED.value)


class FateUnknown(OrchestratorError):
    """An external step may have happened, and there is no way to ask."""


async def run_external_step(
    database: Database, catalog: Catalog, command: StepCommand, *, attempt: int = 1
) -> StepReply:
    """Attempt an external step: write down that it is attempted, call, write down what came of it.

    Raises:
        Exception: what the operation raised; whether it happened is unknown, and the next attempt asks.
    """
    operation = _external(catalog, command.operation)
    key = idempotency_key(command.saga, command.number)

    async def claim_it(connection: AsyncConnection) -> StepReply | Attempting | None:
        return await claim(connection, catalog, command, operation, attempt, StepState.ATTEMPTING, idempotency_key=key)

    try:
        met = await database.in_transaction(claim_it)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)
    if met is not None and not isinstance(met, Attempting):
        # A saga that completed keeps what its step did, whoever comes late.
        if isinstance(met, Decided) and met.phase.value in _ENDED:
            await _take_back_late(database, catalog, command, operation)
        return met
    call = _call(command.saga, command.event_time, key, attempt)
    if met is not None:
        happened = await _verified(operation, call, command.arguments)
        if happened is not None:
            return await _record(database, catalog, command, operation, happened.result)
        if not await _begin_again(database, command, attempt):
            return await _as_recorded(database, command.saga, command.number, operation)
    arguments = operation.signature.load_arguments(command.arguments)
    try:
        async with asyncio.timeout(operation.time_limit.total_seconds()):
            returned = await operation.body(call, **arguments)
    except Refused as refusal:
        if command.past_pivot:
            raise RefusedPastPivot(f"{refusal.code}: {refusal.message}") from refusal
        return await _refuse(database, command, operation, refusal)
    return await _record(database, catalog, command, operation, returned)


async def settle_external_step(database: Database, catalog: Catalog, command: StepCommand) -> StepReply | None:
    """When a step that could not be undone is given up: learn whether it happened, and bar it if it did not.

    Returns:
        Its record, or None if its fate stays unknown.
    """
    operation = _external(catalog, command.operation)
    if operation.verify is None:
        return None
    call = _call(command.saga, command.event_time, idempotency_key(command.saga, command.number), 1)
    async with database.reading() as connection:
        row = await _row(connection, command.saga, command.number)
    if row is not None and row.state == StepState.ATTEMPTING.value:
        happened = await _fate(operation, call, row)
        if happened is not None:
            return await _record(database, catalog, command, operation, happened.result)
        await _swap(database, command.saga, command.number, StepState.BARRED, phases=(Phase.FORWARD.value,))
    return await _as_recorded(database, command.saga, command.number, operation)


async def undo_external_step(database: Database, catalog: Catalog, command: UndoCommand) -> UndoReply:
    """Undo an external step: ask whether it happened if nobody knows, and take it back if it did.

    Raises:
        FateUnknown: there is no verification to ask.
        Exception: what the compensation or the verification raised; the attempt is counted on the step's row.
    """
    try:
        return await _take_back(database, catalog, command, phases=(Phase.UNDOING.value,))
    except Exception as fault:
        # What counts is the fault itself: that it could not be counted must not stand in its place.
        with contextlib.suppress(SQLAlchemyError, OSError):
            await count_undo_failure(database, command, f"{type(fault).__name__}: {fault}")
        raise


def idempotency_key(saga: SagaRef, number: int) -> str:
    """The key of a step: the same on every attempt, and no other step's."""
    return str(uuid5(saga.id, f"external/{number}"))


def compensation_key(saga: SagaRef, number: int) -> str:
    """The key of a step's compensation."""
    return str(uuid5(saga.id, f"external/{number}/compensation"))


async def _take_back(
    database: Database, catalog: Catalog, command: UndoCommand, *, phases: tuple[str, ...]
) -> UndoReply:
    operation = _external(catalog, command.operation)
    while True:
        async with database.reading() as connection:
            row = await _row(connection, command.saga, command.number)
        match None if row is None else StepState(row.state):
            case StepState.ATTEMPTING if row is not None:
                call = _call(
                    command.saga, command.event_time, idempotency_key(command.saga, command.number), row.attempts
                )
                happened = await _fate(operation, call, row)
                if happened is None:
                    await _swap(database, command.saga, command.number, StepState.BARRED, phases=phases)
                else:
                    _, recorded = recordable(operation, happened.result)
                    await _swap(database, command.saga, command.number, StepState.DONE, phases=phases, result=recorded)
            case StepState.DONE if row is not None:
                await _compensate(operation, command, row)
                async with database.transaction() as connection:
                    if await _swapped(
                        connection, command.saga, command.number, StepState.DONE, StepState.UNDONE, phases
                    ):
                        return Undone(number=command.number)
                    return await why_not_undone(connection, command)
            case _:
                async with database.reading() as connection:
                    return await why_not_undone(connection, command)
        # A swap that came too late has changed nothing; if the phase is another, there is nothing left to do.
        async with database.reading() as connection:
            answer = await why_not_undone(connection, command)
        if isinstance(answer, Decided) and answer.phase.value not in phases:
            return answer


async def _take_back_late(database: Database, catalog: Catalog, command: StepCommand, operation: AnyExternal) -> None:
    """What came to light after the step was barred: its driver may be gone, and its saga have ended. Safe to repeat."""
    async with database.reading() as connection:
        row = await _row(connection, command.saga, command.number)
    if row is None or row.state != StepState.DONE.value or operation.undo is None:
        return
    undo = UndoCommand(
        saga=command.saga, number=command.number, operation=operation.name, event_time=command.event_time
    )
    await _take_back(database, catalog, undo, phases=_ENDED)


async def _compensate(operation: AnyExternal, command: UndoCommand, row: Row[Any]) -> None:
    if operation.undo is None:
        raise OrchestratorError(f"{operation.name} is to be undone, and this worker knows no compensation of it")
    call = _call(
        command.saga, command.event_time, compensation_key(command.saga, command.number), row.undo_attempts + 1
    )
    result = None if row.result is None else json.loads(row.result)
    wanted = operation.recorded(operation.undo.wants, json.loads(row.arguments), result)
    async with asyncio.timeout(operation.time_limit.total_seconds()):
        await operation.undo.body(call, **wanted)


async def _fate(operation: AnyExternal, call: ExternalCall, row: Row[Any]) -> Happened[Any] | None:
    """Whether an attempted step happened; "no" only once no attempt of it can be under way any more."""
    if operation.verify is None:
        raise FateUnknown(
            f"whether {operation.name} happened is unknown, and it has no verification to ask: look at the other side "
            f"(idempotency key {call.idempotency_key}), then retry or skip the step"
        )
    arguments = json.loads(row.arguments)
    happened = await _verified(operation, call, arguments)
    began: datetime | None = row.attempted_at
    if happened is not None or began is None:
        return happened
    left = (began + operation.time_limit - datetime.now(UTC)).total_seconds()
    if left <= 0:
        return None
    await asyncio.sleep(left)
    return await _verified(operation, call, arguments)


async def _verified(
    operation: AnyExternal, call: ExternalCall, arguments: Mapping[str, JsonValue]
) -> Happened[Any] | None:
    if operation.verify is None:
        return None
    wanted = operation.recorded(operation.verify.wants, arguments)
    async with asyncio.timeout(operation.time_limit.total_seconds()):
        return await operation.verify.body(call, **wanted)


async def _begin_again(database: Database, command: StepCommand, attempt: int) -> bool:
    """Write down that another attempt begins. False: the step is settled, or the saga goes forward no more."""
    phase = phase_under_share_lock(command.saga.id).scalar_subquery()
    async with database.transaction() as connection:
        begun = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == command.saga.id,
                saga_step.c.number == command.number,
                saga_step.c.state == StepState.ATTEMPTING.value,
                phase == Phase.FORWARD.value,
            )
            .values(attempted_at=datetime.now(UTC), attempts=attempt)
        )
    return begun.rowcount == 1


async def _refuse(database: Database, command: StepCommand, operation: AnyExternal, refusal: Refused) -> StepReply:
    error = canonical({"code": refusal.code, "message": refusal.message})
    async with database.transaction() as connection:
        written = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == command.saga.id,
                saga_step.c.number == command.number,
                saga_step.c.state == StepState.ATTEMPTING.value,
            )
            .values(state=StepState.REFUSED.value, error=error, done_at=datetime.now(UTC))
        )
    if written.rowcount == 1:
        return StepRefused(number=command.number, operation=operation.name, code=refusal.code, message=refusal.message)
    return await _as_recorded(database, command.saga, command.number, operation)


async def _record(
    database: Database, catalog: Catalog, command: StepCommand, operation: AnyExternal, returned: object
) -> StepReply:
    """Write the result down, whatever the saga's phase: it has happened. Who undoes finds it there."""
    result, recorded = recordable(operation, returned)
    async with database.transaction() as connection:
        written = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == command.saga.id,
                saga_step.c.number == command.number,
                saga_step.c.state == StepState.ATTEMPTING.value,
            )
            .values(state=StepState.DONE.value, result=recorded, done_at=datetime.now(UTC))
        )
        if written.rowcount == 1:
            return StepDone(number=command.number, operation=operation.name, result=result)
        # It was barred, for nothing had been seen of it: now it is here, and the one who knows takes it back.
        barred = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == command.saga.id,
                saga_step.c.number == command.number,
                saga_step.c.state == StepState.BARRED.value,
            )
            .values(state=StepState.DONE.value, result=recorded, done_at=datetime.now(UTC))
        )
    if barred.rowcount == 1:
        await _take_back_late(database, catalog, command, operation)
        return Decided(phase=Phase.UNDOING)
    return await _as_recorded(database, command.saga, command.number, operation)


async def _swap(
    database: Database,
    saga: SagaRef,
    number: int,
    to: StepState,
    *,
    phases: tuple[str, ...],
    result: str | None = None,
) -> None:
    async with database.transaction() as connection:
        await _swapped(connection, saga, number, StepState.ATTEMPTING, to, phases, result)


async def _swapped(
    connection: AsyncConnection,
    saga: SagaRef,
    number: int,
    from_: StepState,
    to: StepState,
    phases: tuple[str, ...],
    result: str | None = None,
) -> bool:
    """Compare-and-set of a step's state, behind the guard."""
    phase = phase_under_share_lock(saga.id).scalar_subquery()
    now = datetime.now(UTC)
    values: dict[str, Any] = {"state": to.value}
    if to is StepState.UNDONE:
        values |= {"undone_at": now, "undo_attempts": saga_step.c.undo_attempts + 1}
    else:
        values |= {"result": result, "done_at": now}
    swapped = await connection.execute(
        update(saga_step)
        .where(
            saga_step.c.saga_id == saga.id,
            saga_step.c.number == number,
            saga_step.c.state == from_.value,
            phase.in_(phases),
        )
        .values(values)
    )
    return swapped.rowcount == 1


async def _as_recorded(database: Database, saga: SagaRef, number: int, operation: AnyExternal) -> StepReply:
    async with database.reading() as connection:
        row = await _row(connection, saga, number)
    if row is None or row.state == StepState.ATTEMPTING.value:
        return Decided(phase=Phase.UNDOING)
    return recorded_reply(number, operation.name, row)


async def _row(connection: AsyncConnection, saga: SagaRef, number: int) -> Row[Any] | None:
    found = await connection.execute(
        select(saga_step).where(saga_step.c.saga_id == saga.id, saga_step.c.number == number)
    )
    return found.first()


def _call(saga: SagaRef, event_time: str, key: str, attempt: int) -> ExternalCall:
    return ExternalCall(
        idempotency_key=key,
        event_id=saga.event_id,
        event_time=datetime.fromisoformat(event_time),
        attempt=attempt,
    )


def _external(catalog: Catalog, name: str) -> AnyExternal:
    operation = catalog.operation(name)
    if not isinstance(operation, ExternalOperation):
        raise OrchestratorError(f"{name} is recorded as an external operation, and is none in this worker's code")
    return operation
