"""What is known about an external step: its row, its keys and, if the end of its call is unknown, whether it happened.

A call that failed may have arrived nevertheless, and may be in flight for as long as its time limit. Therefore "it did
not happen" is believed only after that time. The time is counted by the database's clock from when the attempt was
recorded, because workers' clocks differ.
"""

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from pydantic import JsonValue
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError, ResultInvalid
from orchestrator.external import Confirmed, ExternalCall, ExternalOperation
from orchestrator.protocol.commands import SagaRef, StepState
from orchestrator.protocol.containment import contained
from orchestrator.protocol.exception_groups import ungrouped
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.fence import phase_under_share_lock

AnyExternal = ExternalOperation[..., Any]


class OutcomeUnknown(OrchestratorError):
    """An external step may have happened, and there is no verification to ask."""


def idempotency_key(ref: SagaRef, number: int) -> str:
    """Return the step's idempotency key: the same for every attempt, and different from every other step's."""
    return str(uuid5(ref.id, f"external/{number}"))


def compensation_key(ref: SagaRef, number: int) -> str:
    """Return the idempotency key of a step's compensation."""
    return str(uuid5(ref.id, f"external/{number}/compensation"))


def external_call(ref: SagaRef, event_time: str, key: str, attempt: int) -> ExternalCall:
    """Build the call that is passed to the author's function."""
    return ExternalCall(
        idempotency_key=key,
        event_id=ref.event_id,
        event_time=datetime.fromisoformat(event_time),
        attempt=attempt,
    )


def external_operation_of(catalog: Catalog, name: str) -> AnyExternal:
    """Return the external operation that a step is recorded as.

    Raises:
        OrchestratorError: in this worker's code, the operation is not external.
    """
    operation = catalog.operation(name)
    if not isinstance(operation, ExternalOperation):
        raise OrchestratorError(
            f"{name} is recorded as an external operation, but it is not one in this worker's code; deploy code in "
            "which it is"
        )
    return operation


async def external_row(database: Database, ref: SagaRef, number: int) -> Row[Any] | None:
    """Return the row with the saga's phase as `saga_phase` and the current time by the database's clock as `now`."""
    async with database.reading() as connection:
        phase = select(saga.c.phase).where(saga.c.id == ref.id).scalar_subquery()
        rows = await connection.execute(
            select(saga_step, phase.label("saga_phase"), clock.evaluated_now().label("now")).where(
                saga_step.c.saga_id == ref.id, saga_step.c.number == number
            )
        )
        return rows.first()


async def verified(
    operation: AnyExternal, call: ExternalCall, arguments: Mapping[str, JsonValue]
) -> Confirmed[Any] | None:
    """Ask the verification whether the call happened. None means that it did not, or that there is no verification.

    Raises:
        ResultInvalid: the verification returned anything other than a confirmation or None.
        Exception: whatever the verification raised.
    """
    if operation.verify is None:
        return None
    wanted = operation.recorded(operation.verify.wants, arguments)
    async with asyncio.timeout(operation.time_limit.total_seconds()):
        with contained(f"the verification of {operation.name}"), ungrouped():
            confirmation = await operation.verify.body(call, **wanted)
    _check_confirmation(operation, confirmation)
    return confirmation


def _check_confirmation(operation: AnyExternal, returned: object) -> None:
    if returned is not None and not isinstance(returned, Confirmed):
        raise ResultInvalid(
            f"the verification of {operation.name} returned a value of type {type(returned).__qualname__}. "
            "Return `Confirmed(result)` if the call took effect, and None if it did not"
        )


async def find_out(operation: AnyExternal, call: ExternalCall, row: Row[Any]) -> Confirmed[Any] | None:
    """Find out whether an attempted step happened; "no" only once no attempt recorded by this row can be in flight.

    Raises:
        OutcomeUnknown: there is no verification to ask.
    """
    if operation.verify is None:
        raise OutcomeUnknown(
            f"it is not known whether {operation.name} happened, because it has no verification; look it up at the "
            f"external service (idempotency key {call.idempotency_key}), then retry or skip the step"
        )
    arguments = json.loads(row.arguments)
    confirmation = await verified(operation, call, arguments)
    began: datetime | None = row.attempted_at
    if confirmation is not None or began is None:
        return confirmation
    remaining = (began + operation.time_limit - row.now).total_seconds()
    if remaining <= 0:
        return None
    await asyncio.sleep(remaining)
    return await verified(operation, call, arguments)


async def settle_attempt(
    database: Database,
    ref: SagaRef,
    row: Row[Any],
    to: StepState,
    phases: tuple[str, ...],
    *,
    result: str | None = None,
) -> bool:
    """Settle the verified attempt by compare-and-set. False: another attempt has begun, or the phase has changed."""
    async with database.transaction() as connection:
        return await swapped(
            connection,
            ref.id,
            row.number,
            phases,
            saga_step.c.state == StepState.ATTEMPTING.value,
            saga_step.c.attempt_token == row.attempt_token,
            state=to.value,
            result=result,
            done_at=clock.now(),
        )


async def swapped(
    connection: AsyncConnection, saga_id: UUID, number: int, phases: tuple[str, ...], *where: Any, **values: Any
) -> bool:
    """Change a step's row behind the guard. False: the row or the phase is not as expected, and nothing was changed."""
    phase = phase_under_share_lock(saga_id).scalar_subquery()
    changed = await connection.execute(
        update(saga_step)
        .where(saga_step.c.saga_id == saga_id, saga_step.c.number == number, phase.in_(phases), *where)
        .values(values)
    )
    return changed.rowcount == 1
