"""The finish: the outcome on a saga's row and the outcome's event in the outbox, in one transaction; for many at once.

Sagas that end together share the transaction's round trips. What is wrong with one of them is told to its driver, and
keeps no other from ending.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.event import DomainEvent, UndoneStep
from orchestrator.protocol.commands import (
    Decided,
    Diverged,
    FinishCommand,
    FinishReply,
    Outcome,
    Phase,
    Reused,
    StepState,
)
from orchestrator.protocol.envelope import OUTCOME_SIZE_LIMIT, Envelope, canonical, parse, read, wrap
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.locks import Waker, Woken, release, wake_nobody
from orchestrator.store.outbox import SENT_AT_ONCE, TO_BE_SENT, fills
from orchestrator.store.saga.atomic import undone_calls
from orchestrator.store.saga.opening import OpenSaga, lock_sagas
from orchestrator.store.saga.undo import RecordedStep, steps_of_each

_END = (
    update(saga)
    .where(saga.c.id == bindparam("ended"), saga.c.phase == bindparam("was"))
    .values(
        phase=bindparam("phase"),
        outcome=bindparam("outcome"),
        outcome_event_id=bindparam("outcome_event_id"),
        finished_at=clock.now(),
        progressed_at=clock.now(),
        next_at=None,
        stuck_step=None,
        stuck_error=None,
        stuck_since=None,
    )
)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A saga that ends in this transaction."""

    saga: UUID
    was: Phase
    outcome: Outcome
    event: Envelope
    starts_others: bool
    """Somebody listens to the event."""


async def finish_saga(
    database: Database, catalog: Catalog, command: FinishCommand, waker: Waker = wake_nobody
) -> FinishReply:
    """End a saga once: the first outcome is the outcome, and every later call gets it back."""
    [reply] = await finish_sagas(database, catalog, [command], waker)
    if isinstance(reply, Exception):
        raise reply
    return reply


async def finish_sagas(
    database: Database, catalog: Catalog, commands: Sequence[FinishCommand], waker: Waker = wake_nobody
) -> list[FinishReply | Exception]:
    """End sagas, each once, in one transaction.

    Args:
        database: the home database.
        catalog: knows their orchestrators.
        commands: of one to fifty sagas, each once.
        waker: is told after the commit who has become the first one of a key.

    Returns:
        A reply for each command, in their order; or what was wrong with it, in which case nothing was done about it.
    """

    woken: list[Woken] = []

    async def end(connection: AsyncConnection) -> list[FinishReply | Exception]:
        rows = await lock_sagas(connection, [command.opening for command in commands], catalog)
        steps = await steps_of_each(connection, [key for key, row in rows.items() if _is_open(row)])
        replies: list[FinishReply | Exception] = []
        ended: list[_Ended] = []
        for command in commands:
            key = command.opening.saga.id
            try:
                ending = await _ending(connection, catalog, command, rows[key], steps.get(key, []))
            except Exception as fault:  # an author's event that cannot be built: the others end all the same
                replies.append(fault)
                continue
            if isinstance(ending, _Ended):
                ended.append(ending)
                replies.append(ending.outcome)
            else:
                replies.append(ending)
        await _write(connection, ended)
        locked = [one.saga for one in ended if rows[one.saga].lock_keys]
        if locked:  # a repeat after a commit whose answer was lost finds nothing to release, and wakes all the same
            woken[:] = await release(connection, locked)
        return replies

    replies = await database.in_transaction(end)
    if woken:
        await waker(woken)
    return replies


def _is_open(row: OpenSaga) -> bool:
    return not row.reused and row.outcome is None


async def _ending(
    connection: AsyncConnection, catalog: Catalog, command: FinishCommand, row: OpenSaga, steps: Sequence[RecordedStep]
) -> "_Ended | FinishReply":
    """How a saga ends now, or what was decided about it before."""
    if row.reused:
        return Reused()
    if row.outcome is not None:
        return Outcome.model_validate_json(row.outcome)
    orchestrator = catalog.orchestrators[command.opening.saga.orchestrator]
    triggering = read(row.envelope)
    event: DomainEvent
    if command.completed is not None:
        if row.phase is not Phase.FORWARD:
            return Decided(phase=row.phase)
        if (diverged := _unlike(steps, command.steps)) is not None:
            return diverged
        phase = Phase.COMPLETED
        version = command.completed_version
        if version is not None and version != orchestrator.completed.version:
            name, known = orchestrator.completed.type_name(), orchestrator.completed.version
            raise OrchestratorError(
                f"{name} was made in version {version}, and is {known} here: another worker writes it"
            )
        event = parse(canonical(command.completed), orchestrator.completed)
    else:
        if row.phase is not Phase.UNDOING or any(step.is_to_undo for step in steps):
            return Decided(phase=row.phase)
        phase = row.reason or Phase.FAILED
        event = _failure(catalog, row, triggering, orchestrator.failed, steps)
    source = f"orchestrator/{command.opening.saga.orchestrator}"
    out = wrap(
        event, event_id=str(uuid5(row.id, "outcome")), source=source, because=triggering, limit=OUTCOME_SIZE_LIMIT
    )
    outcome = Outcome(
        phase=phase,
        event_id=command.opening.saga.event_id,
        content_digest=row.content_digest,
        triggering=dict(triggering.data),
        triggering_version=triggering.version,
        event=json.loads(out.text),
        error_code=row.error_code if command.completed is None else None,
        message=row.message if command.completed is None else None,
        received=await _received(connection, row.id) if any(step.kind == "wait" for step in steps) else (),
    )
    return _Ended(row.id, row.phase, outcome, out, bool(catalog.listeners_of(out.event_type)))


async def _write(connection: AsyncConnection, ended: Sequence[_Ended]) -> None:
    if not ended:
        return
    await connection.execute(
        _END,
        [
            {
                "ended": one.saga,
                "was": one.was.value,
                "phase": one.outcome.phase.value,
                "outcome": one.outcome.model_dump_json(),
                "outcome_event_id": one.event.event_id,
            }
            for one in ended
        ],
    )
    quiet = [_sent(one) for one in ended if not one.starts_others]
    heard = [{**_sent(one), "of_saga": one.saga} for one in ended if one.starts_others]
    if quiet:
        await connection.execute(SENT_AT_ONCE, quiet)
    if heard:
        await connection.execute(TO_BE_SENT, heard)
        fills(connection)


def _sent(one: _Ended) -> dict[str, Any]:
    return {"event_id": one.event.event_id, "saga_id": one.saga, "envelope": one.event.text}


async def _received(connection: AsyncConnection, saga_id: UUID) -> tuple[str, ...]:
    taken = await connection.scalars(
        select(saga_step.c.result)
        .where(saga_step.c.saga_id == saga_id, saga_step.c.kind == "wait", saga_step.c.result.is_not(None))
        .order_by(saga_step.c.number)
    )
    return tuple(read(json.loads(result)).event_id for result in taken)


def _unlike(steps: Sequence[RecordedStep], reached: int) -> Diverged | None:
    """The first step that was recorded and not reached this time, or reached and not recorded."""
    answers = (StepState.DONE.value, StepState.REFUSED.value, StepState.SKIPPED.value)
    answered = {step.number for step in steps if step.state in answers}
    for number in range(1, reached + 1):
        if number not in answered:
            return Diverged(number=number, recorded="nothing", given=f"handle went on to step {reached}")
    for step in steps:
        if step.number > reached:
            return Diverged(
                number=step.number,
                recorded=f"{step.operation}({step.arguments})",
                given=f"handle ended after step {reached}",
            )
    return None


def _failure(
    catalog: Catalog,
    row: OpenSaga,
    triggering: Envelope,
    failed: type[DomainEvent],
    steps: Sequence[RecordedStep],
) -> DomainEvent:
    taken_back = (StepState.UNDONE.value, StepState.SKIPPED.value)
    undone: list[dict[str, Any]] = [
        UndoneStep(
            number=step.number,
            operation=operation,
            compensation=catalog.compensation_of(operation),
            skipped=step.state == StepState.SKIPPED.value,
        ).model_dump(mode="json")
        for step in reversed(steps)
        if step.state in taken_back
        for operation in undone_calls(catalog, step.operation, step.arguments)
    ]
    fields: Mapping[str, Any] = {
        "event_id": triggering.event_id,
        "event_type": triggering.event_type,
        "event": dict(triggering.data),
        "event_version": triggering.version,
        "error_code": row.error_code,
        "message": row.message,
        "undone": undone,
    }
    return parse(canonical(fields), failed)
