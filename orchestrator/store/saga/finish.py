"""The finish: writes outcomes to sagas' rows and their events to the outbox, in one transaction for many sagas.

Sagas that finish together share the transaction's round trips. An error of one of them is reported to its driver and
does not prevent the others from finishing.
"""

import json
from collections.abc import Sequence
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
from orchestrator.protocol.messages.envelope import OUTCOME_SIZE_LIMIT, Envelope, canonical, read, wrap
from orchestrator.protocol.messages.unwrapping import failure_event, parse
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.locks import Waker, Woken, release, wake_none
from orchestrator.store.outbox import ALREADY_SENT, TO_BE_SENT, fills
from orchestrator.store.saga.atomic import undone_calls
from orchestrator.store.saga.opening import OpenSaga, lock_sagas
from orchestrator.store.saga.step_rows import RecordedStep, steps_of_each

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
class _Ending:
    """A saga that ends in this transaction."""

    saga: UUID
    was: Phase
    outcome: Outcome
    event: Envelope
    starts_others: bool
    """Whether an orchestrator listens to the outcome's event."""


async def finish_saga(
    database: Database, catalog: Catalog, command: FinishCommand, waker: Waker = wake_none
) -> FinishReply:
    """Finish a saga once: the first outcome is final, and every later call returns it."""
    [reply] = await finish_sagas(database, catalog, [command], waker)
    if isinstance(reply, Exception):
        raise reply
    return reply


async def finish_sagas(
    database: Database, catalog: Catalog, commands: Sequence[FinishCommand], waker: Waker = wake_none
) -> list[FinishReply | Exception]:
    """Finish sagas, each once, in one transaction.

    Args:
        database: the home database.
        catalog: the application's orchestrators.
        commands: one command for each of one to fifty sagas.
        waker: called after the commit with the sagas that have become the first in line for a lock.

    Returns:
        For each command, in order, its reply, or the error that kept its saga from being finished.
    """

    woken: list[Woken] = []

    async def end(connection: AsyncConnection) -> list[FinishReply | Exception]:
        rows = await lock_sagas(connection, [command.opening for command in commands], catalog)
        steps = await steps_of_each(connection, [key for key, row in rows.items() if _is_unfinished(row)])
        replies: list[FinishReply | Exception] = []
        endings: list[_Ending] = []
        for command in commands:
            key = command.opening.saga.id
            try:
                ending = await _ending(connection, catalog, command, rows[key], steps.get(key, []))
            except Exception as fault:  # an author's event cannot be built; the other sagas finish nevertheless
                replies.append(fault)
                continue
            if isinstance(ending, _Ending):
                endings.append(ending)
                replies.append(ending.outcome)
            else:
                replies.append(ending)
        await _write(connection, endings)
        locked = [ending.saga for ending in endings if rows[ending.saga].lock_keys]
        if locked:  # if the reply to a commit was lost, the retry releases nothing but must wake the same sagas
            woken[:] = await release(connection, locked)
        return replies

    replies = await database.in_transaction(end)
    if woken:
        await waker(woken)
    return replies


def _is_unfinished(row: OpenSaga) -> bool:
    return not row.reused and row.outcome is None


async def _ending(
    connection: AsyncConnection, catalog: Catalog, command: FinishCommand, row: OpenSaga, steps: Sequence[RecordedStep]
) -> "_Ending | FinishReply":
    """Return how a saga ends now, or what was decided about it before."""
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
        if (diverged := _first_difference(steps, command.steps)) is not None:
            return diverged
        phase = Phase.COMPLETED
        version = command.completed_version
        if version is not None and version != orchestrator.completed.version:
            name, known = orchestrator.completed.type_name(), orchestrator.completed.version
            raise OrchestratorError(
                f"handle made version {version} of {name}, but this worker's code has version {known}; "
                "a worker with the matching code will write the outcome"
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
    return _Ending(row.id, row.phase, outcome, out, bool(catalog.listeners_of(out.event_type)))


async def _write(connection: AsyncConnection, endings: Sequence[_Ending]) -> None:
    if not endings:
        return
    await connection.execute(
        _END,
        [
            {
                "ended": ending.saga,
                "was": ending.was.value,
                "phase": ending.outcome.phase.value,
                "outcome": ending.outcome.model_dump_json(),
                "outcome_event_id": ending.event.event_id,
            }
            for ending in endings
        ],
    )
    without_listeners = [_outbox_row(ending) for ending in endings if not ending.starts_others]
    with_listeners = [{**_outbox_row(ending), "of_saga": ending.saga} for ending in endings if ending.starts_others]
    if without_listeners:
        await connection.execute(ALREADY_SENT, without_listeners)
    if with_listeners:
        await connection.execute(TO_BE_SENT, with_listeners)
        fills(connection)


def _outbox_row(ending: _Ending) -> dict[str, Any]:
    return {"event_id": ending.event.event_id, "saga_id": ending.saga, "envelope": ending.event.text}


async def _received(connection: AsyncConnection, saga_id: UUID) -> tuple[str, ...]:
    envelopes = await connection.scalars(
        select(saga_step.c.result)
        .where(saga_step.c.saga_id == saga_id, saga_step.c.kind == "wait", saga_step.c.result.is_not(None))
        .order_by(saga_step.c.number)
    )
    return tuple(read(json.loads(envelope)).event_id for envelope in envelopes)


def _first_difference(steps: Sequence[RecordedStep], reached: int) -> Diverged | None:
    """Return the first step that is recorded but was not reached this time, or was reached but is not recorded."""
    final = (StepState.DONE, StepState.REFUSED, StepState.SKIPPED)
    answered = {step.number for step in steps if step.state in final}
    for number in range(1, reached + 1):
        if number not in answered:
            return Diverged(number=number, recorded="nothing", requested=f"handle went on to step {reached}")
    for step in steps:
        if step.number > reached:
            return Diverged(
                number=step.number,
                recorded=f"{step.operation}({step.arguments})",
                requested=f"handle ended after step {reached}",
            )
    return None


def _failure(
    catalog: Catalog,
    row: OpenSaga,
    triggering: Envelope,
    failed: type[DomainEvent],
    steps: Sequence[RecordedStep],
) -> DomainEvent:
    undone = [
        UndoneStep(
            number=step.number,
            operation=operation,
            compensation=catalog.compensation_of(operation),
            skipped=step.state is StepState.SKIPPED,
        )
        for step in reversed(steps)
        if step.state in (StepState.UNDONE, StepState.SKIPPED)
        for operation in undone_calls(catalog, step.operation, step.arguments)
    ]
    return failure_event(
        failed,
        triggering,
        error_code=row.error_code,
        message=row.message,
        undone=undone,
        details=None if row.details is None else json.loads(row.details),
    )
