"""What is known of an external step: its row, its keys, and whether it happened if nobody has seen its end.

A call that failed may have arrived all the same, and may still be under way at the other side, for as long as its time
limit. So "it did not happen" is believed only once that time is over. It is counted by the database's clock, from when
the attempt was written down: workers' clocks differ.
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
    """An external step may have happened, and there is no way to ask."""


def idempotency_key(ref: SagaRef, number: int) -> str:
    """The key of a step: the same on every attempt, and no other step's."""
    return str(uuid5(ref.id, f"external/{number}"))


def compensation_key(ref: SagaRef, number: int) -> str:
    """The key of a step's compensation."""
    return str(uuid5(ref.id, f"external/{number}/compensation"))


def external_call(ref: SagaRef, event_time: str, key: str, attempt: int) -> ExternalCall:
    """What the author's function is given."""
    return ExternalCall(
        idempotency_key=key,
        event_id=ref.event_id,
        event_time=datetime.fromisoformat(event_time),
        attempt=attempt,
    )


def external_operation_of(catalog: Catalog, name: str) -> AnyExternal:
    """The operation that a step is recorded as.

    Raises:
        OrchestratorError: today it is none of the outside.
    """
    operation = catalog.operation(name)
    if not isinstance(operation, ExternalOperation):
        raise OrchestratorError(f"{name} is recorded as an external operation, and is none in this worker's code")
    return operation


async def external_row(database: Database, ref: SagaRef, number: int) -> Row[Any] | None:
    """A step's row as it stands, with `saga_phase` and, as `now`, the time by the clock of `attempted_at`."""
    async with database.reading() as connection:
        phase = select(saga.c.phase).where(saga.c.id == ref.id).scalar_subquery()
        found = await connection.execute(
            select(saga_step, phase.label("saga_phase"), clock.evaluated_now().label("now")).where(
                saga_step.c.saga_id == ref.id, saga_step.c.number == number
            )
        )
        return found.first()


async def verified(
    operation: AnyExternal, call: ExternalCall, arguments: Mapping[str, JsonValue]
) -> Confirmed[Any] | None:
    """Ask the other side. None also if there is no way to ask.

    Raises:
        ResultInvalid: the verification returned something else than its answer or None.
        Exception: what the verification raised.
    """
    if operation.verify is None:
        return None
    wanted = operation.recorded(operation.verify.wants, arguments)
    async with asyncio.timeout(operation.time_limit.total_seconds()):
        with contained(f"the verification of {operation.name}"), ungrouped():
            happened = await operation.verify.body(call, **wanted)
    _must_be_an_answer(operation, happened)
    return happened


def _must_be_an_answer(operation: AnyExternal, answer: object) -> None:
    if answer is not None and not isinstance(answer, Confirmed):
        raise ResultInvalid(
            f"the verification of {operation.name} returned a value of type {type(answer).__qualname__}. "
            "Return `Happened(result)` if the call took effect, and None if it did not"
        )


async def fate(operation: AnyExternal, call: ExternalCall, row: Row[Any]) -> Confirmed[Any] | None:
    """Whether an attempted step happened; "no" only once no attempt up to this row's can be under way any more.

    Raises:
        FateUnknown: there is no verification to ask.
    """
    if operation.verify is None:
        raise OutcomeUnknown(
            f"whether {operation.name} happened is unknown, and it has no verification to ask: look at the other side "
            f"(idempotency key {call.idempotency_key}), then retry or skip the step"
        )
    arguments = json.loads(row.arguments)
    happened = await verified(operation, call, arguments)
    began: datetime | None = row.attempted_at
    if happened is not None or began is None:
        return happened
    left = (began + operation.time_limit - row.now).total_seconds()
    if left <= 0:
        return None
    await asyncio.sleep(left)
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
    """Compare-and-set of the attempt that was asked about. False: another has begun since, or the phase is another."""
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
    """Change a step's row if it stands as expected, behind the guard."""
    phase = phase_under_share_lock(saga_id).scalar_subquery()
    changed = await connection.execute(
        update(saga_step)
        .where(saga_step.c.saga_id == saga_id, saga_step.c.number == number, phase.in_(phases), *where)
        .values(values)
    )
    return changed.rowcount == 1
