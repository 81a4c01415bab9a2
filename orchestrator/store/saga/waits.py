"""Waits: a sleep, or a wait for an event, written down when it begins and when it ends.

When it begins, so that it ends at the same moment whoever drives then; when it ends, so that what came is the same on
every attempt. Both are transitions: they lock the saga's row first, since they also say when to look at it again.
"""

import json
from datetime import timedelta
from uuid import uuid4

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
    text_of,
)
from orchestrator.protocol.envelope import canonical, digest
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.fence import SagaMissing, recorded_reply
from orchestrator.store.saga.opening import OpenedBefore, begin_saga

_NOW = clock.now().label("now")
LOOK_AFTER = timedelta(hours=1)
"""How long recovery leaves a saga alone that waits."""


async def begin_wait(database: Database, catalog: Catalog, command: WaitCommand) -> WaitReply:
    """Write down until when a saga waits, or learn what was written down. Safe to repeat.

    Raises:
        SagaMissing: the row is gone.
    """

    async def begin(connection: AsyncConnection) -> WaitReply:
        if command.opening is not None:
            elsewhere = await begin_saga(connection, command.opening, catalog, begins=True)
            if elsewhere is not None:
                return elsewhere
        elif (decided := await _lock(connection, command.saga)) is not None:
            return decided
        arguments = canonical(command.arguments)
        met = (
            await connection.execute(
                select(saga_step, _NOW).where(
                    saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number
                )
            )
        ).first()
        if met is None:
            begun = await connection.execute(
                insert(saga_step)
                .values(
                    saga_id=command.saga.id,
                    number=command.number,
                    kind="sleep" if command.operation == "saga.sleep" else "wait",
                    operation=command.operation,
                    arguments=arguments,
                    digest=digest(f"{command.operation}{arguments}"),
                    attempt_token=uuid4(),
                    state=StepState.ATTEMPTING.value,
                    attempts=1,
                    created_at=clock.now(),
                    attempted_at=clock.now_plus(command.seconds),
                )
                .returning(saga_step.c.attempted_at, _NOW)
            )
            until, now = begun.one()
        elif met.digest != digest(f"{command.operation}{arguments}"):
            return Diverged(
                number=command.number,
                recorded=text_of(met.operation, json.loads(met.arguments)),
                given=text_of(command.operation, command.arguments),
            )
        elif met.state != StepState.ATTEMPTING.value:
            reply = recorded_reply(command.number, command.operation, met)
            return Decided(phase=Phase.UNDOING) if reply.kind == "refused" else reply
        else:
            until, now = met.attempted_at, met.now
        # Recovery looks sooner than in a month: who sends an event finds nobody while its execution is gone.
        look = min(until, now + LOOK_AFTER)
        await connection.execute(update(saga).where(saga.c.id == command.saga.id).values(next_at=look))
        return WaitBegun(number=command.number, seconds_left=(until - now).total_seconds())

    try:
        return await database.in_transaction(begin)
    except OpenedBefore as met:
        return Resume(envelope=met.envelope)


async def end_wait(database: Database, command: EndWaitCommand) -> StepReply:
    """Write down how a wait ended; who wrote first is the truth. Safe to repeat.

    Raises:
        SagaMissing: the row is gone.
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
        met = (await connection.execute(select(saga_step).where(where))).one()
        return recorded_reply(command.number, command.operation, met)

    return await database.in_transaction(end)


async def _lock(connection: AsyncConnection, ref: SagaRef) -> Decided | None:
    """Lock the saga's row; answers with its phase unless that is forward."""
    phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == ref.id).with_for_update())
    if phase is None:
        raise SagaMissing(
            f"saga {ref.orchestrator}/{ref.event_id} has no row here: is this the database that it was begun in?"
        )
    return None if phase == Phase.FORWARD.value else Decided(phase=Phase(phase))
