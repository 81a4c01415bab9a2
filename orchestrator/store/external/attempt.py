"""The forward path of an external step, which is recorded before the call and verified if the call's end is unknown.

The row is `attempting` from before the first call. The result of a call is recorded whatever was decided meanwhile,
because the call has happened. A result that arrives for a step that was barred, or refused to another attempt, is first
recorded and then undone (see `external.undo`).

`attempted_at` is the time at which the last attempt without a recorded end began. It is empty once a step is settled,
so that recovery finds the effects that a dead worker left behind.
"""

import asyncio
from typing import Any
from uuid import uuid4

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import Refused
from orchestrator.protocol.commands import (
    Decided,
    Phase,
    Resume,
    SagaRef,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
    StepState,
)
from orchestrator.protocol.containment import contained
from orchestrator.protocol.messages.envelope import canonical
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.external.undo import NOTHING_RETURNED, UNDO_PHASES, undo_late_effect
from orchestrator.store.external.verification import (
    AnyExternal,
    external_call,
    external_operation_of,
    external_row,
    find_out,
    idempotency_key,
    settle_attempt,
    swapped,
    verified,
)
from orchestrator.store.saga.atomic import refusal_record, refused_reply
from orchestrator.store.saga.fence import (
    Attempting,
    RefusedPastPivot,
    claim,
    phase_under_share_lock,
    recordable,
    recorded_reply,
)
from orchestrator.store.saga.opening import OpenedBefore
from orchestrator.store.saga.step_rows import StepAttempt

_FORWARD = (Phase.FORWARD.value,)


async def run_external_step(
    database: Database, catalog: Catalog, command: StepCommand, *, attempt: int = 1
) -> StepReply:
    """Attempt an external step: record the attempt, make the call, and record its result.

    Raises:
        Exception: whatever the operation raised; it is not known whether the call happened, so the next
            attempt asks the verification.
    """
    operation = external_operation_of(catalog, command.operation)
    step = StepAttempt(command, operation, attempt)
    key = idempotency_key(command.saga, command.number)
    began = _time()

    async def claim_it(connection: AsyncConnection) -> StepReply | Attempting | None:
        nonlocal began
        began = _time()
        return await claim(connection, catalog, step, StepState.ATTEMPTING, idempotency_key=key)

    try:
        recorded = await database.in_transaction(claim_it)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)
    if recorded is not None and not isinstance(recorded, Attempting):
        if isinstance(recorded, Decided | StepRefused):
            await undo_late_effect(database, catalog, command)
        return recorded
    call = external_call(command.saga, command.event_time, key, attempt)
    if recorded is not None:
        confirmation = await verified(operation, call, command.arguments)
        if confirmation is not None:
            return await _record(database, catalog, command, operation, confirmation.result)
        began = _time()
        if not await _begin_again(database, command, attempt):
            return await _reply_from_row(database, command.saga, command.number, operation)
    arguments = operation.signature.load_arguments(command.arguments)
    until = began + operation.time_limit.total_seconds()
    if _time() >= until:
        # An undo counts the time limit from the row. A call that began now could arrive after the undo has concluded
        # that it did not happen.
        raise TimeoutError(f"the time limit of {operation.name} ended before its call began, so it was not called")
    try:
        async with asyncio.timeout_at(until):
            with contained(operation.name):
                returned = await operation.body(call, **arguments)
    except Refused as refusal:
        if command.past_pivot:
            raise RefusedPastPivot(f"{refusal.code}: {refusal.message}") from refusal
        return await _refuse(database, command, operation, refusal)
    return await _record(database, catalog, command, operation, returned)


async def settle_external_step(database: Database, catalog: Catalog, command: StepCommand) -> StepReply | None:
    """Find out whether an abandoned step that cannot be undone has happened; bar it if it has not.

    Returns:
        The recorded reply. None: the step did not happen and is barred, or it is not known.
    """
    operation = external_operation_of(catalog, command.operation)
    if operation.verify is None:
        return None
    call = external_call(command.saga, command.event_time, idempotency_key(command.saga, command.number), 1)
    while (row := await external_row(database, command.saga, command.number)) is not None:
        if row.state == StepState.BARRED.value and row.saga_phase == Phase.FORWARD.value:
            return None
        if row.state != StepState.ATTEMPTING.value or row.saga_phase != Phase.FORWARD.value:
            return await _reply_from_row(database, command.saga, command.number, operation)
        confirmation = await find_out(operation, call, row)
        if confirmation is not None:
            return await _record(database, catalog, command, operation, confirmation.result)
        # If another attempt has begun meanwhile, nothing is changed and the loop asks again.
        await settle_attempt(database, command.saga, row, StepState.BARRED, _FORWARD)
    return None


async def _begin_again(database: Database, command: StepCommand, attempt: int) -> bool:
    """Record that another attempt begins. False: the step is settled, or the saga no longer goes forward."""
    async with database.transaction() as connection:
        return await swapped(
            connection,
            command.saga.id,
            command.number,
            _FORWARD,
            saga_step.c.state == StepState.ATTEMPTING.value,
            attempt_token=uuid4(),
            attempted_at=clock.evaluated_now(),
            attempts=attempt,
        )


async def _refuse(database: Database, command: StepCommand, operation: AnyExternal, refusal: Refused) -> StepReply:
    record = refusal_record(refusal)
    async with database.transaction() as connection:
        if await _changed(
            connection,
            command,
            StepState.ATTEMPTING,
            state=StepState.REFUSED.value,
            error=canonical(record),
            done_at=clock.now(),
            attempted_at=None,
        ):
            return refused_reply(command.number, operation.name, record)
    return await _reply_from_row(database, command.saga, command.number, operation)


async def _record(
    database: Database, catalog: Catalog, command: StepCommand, operation: AnyExternal, returned: object
) -> StepReply:
    """Record the result whatever the saga's phase, because the call has happened; an undo finds it on the row."""
    result, recorded = recordable(operation, returned)
    done: dict[str, Any] = {"state": StepState.DONE.value, "result": recorded, "done_at": clock.now()}
    async with database.transaction() as connection:
        if await _changed(connection, command, StepState.ATTEMPTING, **done, attempted_at=None):
            return StepDone(number=command.number, operation=operation.name, result=result)
        # The step was barred because no result had been seen, or refused to another attempt. Lock the saga's row, so
        # that a finish in flight commits first: then either it sees this result, or this attempt sees the saga's end.
        await connection.execute(phase_under_share_lock(command.saga.id))
        late: dict[str, Any] = {"attempted_at": clock.evaluated_now(), "done_at": clock.now()}
        if not await _changed(connection, command, StepState.BARRED, **done, attempted_at=late["attempted_at"]):
            # The refusal remains the step's reply, because `handle` may have continued with it.
            late["result"] = NOTHING_RETURNED if recorded is None else recorded
            await _changed(connection, command, StepState.REFUSED, saga_step.c.result.is_(None), **late)
    await undo_late_effect(database, catalog, command, came_late=True)
    return await _reply_from_row(database, command.saga, command.number, operation)


async def _changed(
    connection: AsyncConnection, command: StepCommand, expected: StepState, *where: Any, **values: Any
) -> bool:
    """Change a step's row if it has the expected state, whatever the phase."""
    changed = await connection.execute(
        update(saga_step)
        .where(
            saga_step.c.saga_id == command.saga.id,
            saga_step.c.number == command.number,
            saga_step.c.state == expected.value,
            *where,
        )
        .values(values)
    )
    return changed.rowcount == 1


async def _reply_from_row(database: Database, ref: SagaRef, number: int, operation: AnyExternal) -> StepReply:
    """Return the reply that the row records. In a saga that is being undone or was undone, no step's result counts."""
    row = await external_row(database, ref, number)
    if row is None or row.saga_phase is None:
        return Decided(phase=Phase.UNDOING)
    if row.saga_phase in UNDO_PHASES:
        return Decided(phase=Phase(row.saga_phase))
    return recorded_reply(number, operation.name, row)


def _time() -> float:
    return asyncio.get_running_loop().time()
