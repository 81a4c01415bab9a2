"""The finish: the outcome on the saga's row and the outcome's event in the outbox, in one transaction."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid5

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.catalog import Catalog
from orchestrator.drive.messages import Decided, Diverged, FinishCommand, FinishReply, Outcome, Phase, StepState
from orchestrator.envelope import OUTCOME_SIZE_LIMIT, Envelope, canonical, parse, read, wrap
from orchestrator.event import DomainEvent, UndoneStep
from orchestrator.store.database import Database
from orchestrator.store.opening import OpenSaga, lock_saga
from orchestrator.store.schema import saga, saga_outbox, saga_step
from orchestrator.store.turn import RecordedStep, steps_of


async def finish_saga(database: Database, catalog: Catalog, command: FinishCommand) -> FinishReply:
    """End a saga once: the first outcome is the outcome, and every later call gets it back."""

    async def end(connection: AsyncConnection) -> FinishReply:
        key = command.opening.saga.id
        row = await lock_saga(connection, command.opening, catalog)
        if not isinstance(row, OpenSaga):
            return row
        steps = await steps_of(connection, key)
        source = f"orchestrator/{command.opening.saga.orchestrator}"
        orchestrator = catalog.orchestrators[command.opening.saga.orchestrator]
        event: DomainEvent
        if command.completed is not None:
            if row.phase is not Phase.FORWARD:
                return Decided(phase=row.phase)
            if (diverged := _unlike(steps, command.steps)) is not None:
                return diverged
            phase = Phase.COMPLETED
            event = parse(canonical(command.completed), orchestrator.completed)
        else:
            if row.phase is not Phase.UNDOING or any(step.is_to_undo for step in steps):
                return Decided(phase=row.phase)
            phase = row.reason or Phase.FAILED
            event = await _failure(connection, catalog, row, read(row.envelope), orchestrator.failed)
        out = wrap(event, event_id=str(uuid5(key, "outcome")), source=source, limit=OUTCOME_SIZE_LIMIT)
        outcome = Outcome(
            phase=phase,
            event_id=command.opening.saga.event_id,
            content_digest=row.content_digest,
            triggering=dict(read(row.envelope).data),
            event=json.loads(out.text),
            error_code=row.error_code if command.completed is None else None,
            message=row.message if command.completed is None else None,
            received=await _received(connection, row) if any(step.kind == "wait" for step in steps) else (),
        )
        now = datetime.now(UTC)
        await connection.execute(
            update(saga)
            .where(saga.c.id == key, saga.c.phase == row.phase.value)
            .values(
                phase=phase.value,
                outcome=outcome.model_dump_json(),
                outcome_event_id=out.event_id,
                finished_at=now,
                progressed_at=now,
                next_at=None,
                stuck_step=None,
                stuck_error=None,
                stuck_since=None,
            )
        )
        await connection.execute(
            insert(saga_outbox).values(event_id=out.event_id, saga_id=key, envelope=out.text, created_at=now)
        )
        return outcome

    return await database.in_transaction(end)


async def _received(connection: AsyncConnection, row: OpenSaga) -> tuple[str, ...]:
    taken = await connection.scalars(
        select(saga_step.c.result)
        .where(saga_step.c.saga_id == row.id, saga_step.c.kind == "wait", saga_step.c.result.is_not(None))
        .order_by(saga_step.c.number)
    )
    return tuple(read(json.loads(result)).event_id for result in taken)


def _unlike(steps: list[RecordedStep], reached: int) -> Diverged | None:
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


async def _failure(
    connection: AsyncConnection, catalog: Catalog, row: OpenSaga, envelope: Envelope, failed: type[DomainEvent]
) -> DomainEvent:
    result = await connection.execute(
        select(saga_step.c.number, saga_step.c.operation, saga_step.c.state)
        .where(
            saga_step.c.saga_id == row.id,
            saga_step.c.state.in_((StepState.UNDONE.value, StepState.SKIPPED.value)),
        )
        .order_by(saga_step.c.number.desc())
    )
    undone: list[dict[str, Any]] = [
        UndoneStep(
            number=step.number,
            operation=step.operation,
            compensation=catalog.compensation_of(step.operation),
            skipped=step.state == StepState.SKIPPED.value,
        ).model_dump(mode="json")
        for step in result
    ]
    fields: dict[str, Any] = {
        "event_id": envelope.event_id,
        "event_type": envelope.event_type,
        "event": dict(envelope.data),
        "error_code": row.error_code,
        "message": row.message,
        "undone": undone,
    }
    return parse(canonical(fields), failed)
