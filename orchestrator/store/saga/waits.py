"""Waits: a sleep, or a wait for an event. Each is recorded when it begins and when it ends.

The beginning is recorded so that the wait ends at the same time whichever driver continues. The end is recorded so that
every attempt sees the same event. Both are transitions that lock the saga's row first, because they also set the time
at which recovery next checks the saga.
"""

import json
from datetime import timedelta

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import (
    Decided,
    Diverged,
    EndWaitCommand,
    Phase,
    Resume,
    SagaRef,
    StepReply,
    StepState,
    WaitBegun,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.messages.envelope import canonical
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.fence import recorded_reply, saga_missing
from orchestrator.store.saga.opening import OpenedBefore, begin_saga
from orchestrator.store.saga.step_rows import NewStep, describe_call

_NOW = clock.now().label("now")
LOOK_AFTER = timedelta(hours=1)
"""How long recovery leaves a waiting saga alone before it checks the saga again."""


async def begin_wait(database: Database, catalog: Catalog, command: WaitCommand) -> WaitReply:
    """Record until when a saga waits, or return what an earlier attempt recorded. Safe to repeat.

    Raises:
        SagaMissing: the saga's row is not in this database.
    """

    async def begin(connection: AsyncConnection) -> WaitReply:
        if command.opening is not None:
            hindrance = await begin_saga(connection, command.opening, catalog, begins=True)
            if hindrance is not None:
                return hindrance
        elif (decided := await _lock(connection, command.saga)) is not None:
            return decided
        step = NewStep(
            saga_id=command.saga.id,
            number=command.number,
            kind="sleep" if command.operation == "saga.sleep" else "wait",
            operation=command.operation,
            arguments=canonical(command.arguments),
        )
        row = (
            await connection.execute(
                select(saga_step, _NOW).where(
                    saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number
                )
            )
        ).first()
        if row is None:
            begun = await connection.execute(
                insert(saga_step)
                .values(
                    **step.values(StepState.ATTEMPTING),
                    attempts=1,
                    created_at=clock.now(),
                    attempted_at=clock.now_plus(command.seconds),
                )
                .returning(saga_step.c.attempted_at, _NOW)
            )
            until, now = begun.one()
        elif row.digest != step.digest:
            return Diverged(
                number=command.number,
                recorded=describe_call(row.operation, json.loads(row.arguments)),
                requested=describe_call(command.operation, command.arguments),
            )
        elif row.state != StepState.ATTEMPTING.value:
            reply = recorded_reply(command.number, command.operation, row)
            return Decided(phase=Phase.UNDOING) if reply.kind == "refused" else reply
        else:
            until, now = row.attempted_at, row.now
        # A wait may take a month, but recovery checks the saga within the hour, because an event that is sent to the
        # saga is not received while the saga has no execution.
        look = min(until, now + LOOK_AFTER)
        await connection.execute(update(saga).where(saga.c.id == command.saga.id).values(next_at=look))
        return WaitBegun(number=command.number, seconds_left=(until - now).total_seconds())

    try:
        return await database.in_transaction(begin)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)


async def end_wait(database: Database, command: EndWaitCommand) -> StepReply:
    """Record how a wait ended, or return what an earlier attempt recorded. Safe to repeat.

    Raises:
        SagaMissing: the saga's row is not in this database.
    """

    async def end(connection: AsyncConnection) -> StepReply:
        if (decided := await _lock(connection, command.saga)) is not None:
            return decided
        where = (saga_step.c.saga_id == command.saga.id) & (saga_step.c.number == command.number)
        await connection.execute(
            update(saga_step)
            .where(where, saga_step.c.state == StepState.ATTEMPTING.value)
            .values(
                state=StepState.DONE.value,
                result=None if command.result is None else canonical(command.result),
                done_at=clock.now(),
            )
        )
        await connection.execute(
            update(saga).where(saga.c.id == command.saga.id).values(next_at=None, progressed_at=clock.now())
        )
        row = (await connection.execute(select(saga_step).where(where))).one()
        return recorded_reply(command.number, command.operation, row)

    return await database.in_transaction(end)


async def _lock(connection: AsyncConnection, ref: SagaRef) -> Decided | None:
    """Lock the saga's row; return its phase unless that is forward."""
    phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == ref.id).with_for_update())
    if phase is None:
        raise saga_missing(ref)
    return None if phase == Phase.FORWARD.value else Decided(phase=Phase(phase))
