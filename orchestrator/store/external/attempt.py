"""External steps on their way forward: recorded as attempted before the call, verified where their fate is unknown.

The row is `attempting` from before the first call on. What comes of the call is recorded whatever was decided
meanwhile, for it has happened outside: a result that comes back to a step that was barred, or refused to another
attempt, is written down first and taken back then (see `external_undo`).

`attempted_at` is when the last attempt began whose end nobody has seen; it is empty once a step is settled, so that
what was left somewhere in between can be found.
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
from orchestrator.protocol.envelope import canonical
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.external.undo import GOES_BACK, NOTHING_RETURNED, take_back_late
from orchestrator.store.external.verification import (
    AnyExternal,
    external_call,
    external_operation_of,
    external_row,
    fate,
    idempotency_key,
    settle_attempt,
    swapped,
    verified,
)
from orchestrator.store.saga.fence import (
    Attempting,
    RefusedPastPivot,
    claim,
    phase_under_share_lock,
    recordable,
    recorded_reply,
)
from orchestrator.store.saga.opening import OpenedBefore

_FORWARD = (Phase.FORWARD.value,)


async def run_external_step(
    database: Database, catalog: Catalog, command: StepCommand, *, attempt: int = 1
) -> StepReply:
    """Attempt an external step: write down that it is attempted, call, write down what came of it.

    Raises:
        Exception: what the operation raised; whether it happened is unknown, and the next attempt asks.
    """
    operation = external_operation_of(catalog, command.operation)
    key = idempotency_key(command.saga, command.number)
    began = _time()

    async def claim_it(connection: AsyncConnection) -> StepReply | Attempting | None:
        nonlocal began
        began = _time()
        return await claim(connection, catalog, command, operation, attempt, StepState.ATTEMPTING, idempotency_key=key)

    try:
        met = await database.in_transaction(claim_it)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)
    if met is not None and not isinstance(met, Attempting):
        if isinstance(met, Decided | StepRefused):
            await take_back_late(database, catalog, command)
        return met
    call = external_call(command.saga, command.event_time, key, attempt)
    if met is not None:
        happened = await verified(operation, call, command.arguments)
        if happened is not None:
            return await _record(database, catalog, command, operation, happened.result)
        began = _time()
        if not await _begin_again(database, command, attempt):
            return await _as_recorded(database, command.saga, command.number, operation)
    arguments = operation.signature.load_arguments(command.arguments)
    until = began + operation.time_limit.total_seconds()
    if _time() >= until:
        # Who undoes counts the time from the row: a call that began now could arrive after it was believed not to.
        raise TimeoutError(f"the time limit of {operation.name} was over before the call began")
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
    """When a step that could not be undone is given up: learn whether it happened, and bar it if it did not.

    Returns:
        Its record, or None: it did not happen and is barred, or its fate stays unknown.
    """
    operation = external_operation_of(catalog, command.operation)
    if operation.verify is None:
        return None
    call = external_call(command.saga, command.event_time, idempotency_key(command.saga, command.number), 1)
    while (row := await external_row(database, command.saga, command.number)) is not None:
        if row.state == StepState.BARRED.value and row.saga_phase == Phase.FORWARD.value:
            return None
        if row.state != StepState.ATTEMPTING.value or row.saga_phase != Phase.FORWARD.value:
            return await _as_recorded(database, command.saga, command.number, operation)
        happened = await fate(operation, call, row)
        if happened is not None:
            return await _record(database, catalog, command, operation, happened.result)
        # Another attempt may have begun while this one was asked about: then there is more to ask.
        await settle_attempt(database, command.saga, row, StepState.BARRED, _FORWARD)
    return None


async def _begin_again(database: Database, command: StepCommand, attempt: int) -> bool:
    """Write down that another attempt begins. False: the step is settled, or the saga goes forward no more."""
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
    error = canonical({"code": refusal.code, "message": refusal.message})
    async with database.transaction() as connection:
        if await _changed(
            connection,
            command,
            StepState.ATTEMPTING,
            state=StepState.REFUSED.value,
            error=error,
            done_at=clock.now(),
            attempted_at=None,
        ):
            return StepRefused(
                number=command.number, operation=operation.name, code=refusal.code, message=refusal.message
            )
    return await _as_recorded(database, command.saga, command.number, operation)


async def _record(
    database: Database, catalog: Catalog, command: StepCommand, operation: AnyExternal, returned: object
) -> StepReply:
    """Write the result down, whatever the saga's phase: it has happened. Who undoes finds it there."""
    result, recorded = recordable(operation, returned)
    done: dict[str, Any] = {"state": StepState.DONE.value, "result": recorded, "done_at": clock.now()}
    async with database.transaction() as connection:
        if await _changed(connection, command, StepState.ATTEMPTING, **done, attempted_at=None):
            return StepDone(number=command.number, operation=operation.name, result=result)
        # Now it is here: what was barred because nothing had been seen of it, or refused to another attempt. A finish
        # that is under way comes first, so that either it sees this result or this attempt sees the saga's end.
        await connection.execute(phase_under_share_lock(command.saga.id))
        came_late: dict[str, Any] = {"attempted_at": clock.evaluated_now(), "done_at": clock.now()}
        if not await _changed(connection, command, StepState.BARRED, **done, attempted_at=came_late["attempted_at"]):
            # A refusal stays the answer, for `handle` may have gone another way on it.
            came_late["result"] = NOTHING_RETURNED if recorded is None else recorded
            await _changed(connection, command, StepState.REFUSED, saga_step.c.result.is_(None), **came_late)
    await take_back_late(database, catalog, command, came_late=True)
    return await _as_recorded(database, command.saga, command.number, operation)


async def _changed(
    connection: AsyncConnection, command: StepCommand, expected: StepState, *where: Any, **values: Any
) -> bool:
    """Change a step's row if it stands as expected, whatever the phase."""
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


async def _as_recorded(database: Database, ref: SagaRef, number: int, operation: AnyExternal) -> StepReply:
    """What stands there, for a driver: where the saga goes back, no result of a step counts any more."""
    row = await external_row(database, ref, number)
    if row is None or row.saga_phase is None:
        return Decided(phase=Phase.UNDOING)
    if row.saga_phase in GOES_BACK:
        return Decided(phase=Phase(row.saga_phase))
    return recorded_reply(number, operation.name, row)


def _time() -> float:
    return asyncio.get_running_loop().time()
