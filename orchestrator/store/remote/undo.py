"""A step in another database on its way back: barred there if it has not happened, taken back there if it has."""

import contextlib
import json
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import AtomicOperation
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Decided, Phase, StepState, UndoCommand, Undone, UndoReply
from orchestrator.protocol.containment import contained
from orchestrator.store.core import clock
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.remote.fence import FENCE, copy_home, home_row, insert_first
from orchestrator.store.saga.atomic import undo_calls
from orchestrator.store.saga.fence import SagaMissing, TransactionLost
from orchestrator.store.saga.undo import count_undo_failure
from orchestrator.transaction import Transaction


async def undo_other_step(databases: Databases, catalog: Catalog, command: UndoCommand) -> UndoReply:
    """Undo a step in another database. A transaction there, and one at home; safe to repeat.

    The phase is looked at before anything is done there. It never turns forward again, nor to completed, so what may be
    taken back once may be taken back for ever; that it happens once is decided by the row there.

    Raises:
        DatabaseMissing: the other database's address is not known here.
        SagaMissing: the saga's row is gone.
        Exception: what the compensation raised; the step is as it was, and the attempt is counted on its row at home.
    """
    try:
        return await _undo(databases, catalog, command)
    except Exception as fault:
        # What counts is the fault itself: that it could not be counted must not stand in its place.
        with contextlib.suppress(SQLAlchemyError, OSError):
            await count_undo_failure(databases.home, command, error_text(fault))
        raise


async def _undo(databases: Databases, catalog: Catalog, command: UndoCommand) -> UndoReply:
    row = await home_row(databases.home, command.saga.id, command.number)
    if row is None and (phase := await _phase_of(databases, command)).is_final:
        return Decided(phase=phase)  # purged since
    if row is None or row.saga_phase is None:
        raise SagaMissing(f"saga {command.saga.orchestrator}/{command.saga.event_id} has no row here")
    if row.saga_phase != Phase.UNDOING.value:
        return Decided(phase=Phase(row.saga_phase))
    if row.state not in (StepState.ATTEMPTING.value, StepState.DONE.value):
        return Undone(number=command.number)
    there = databases.named(row.database)

    async def take_back(connection: AsyncConnection) -> Any:
        met, _ = await insert_first(connection, row, StepState.BARRED)
        return met if met.state != StepState.DONE.value else await _compensate(connection, catalog, command, met)

    found = await there.in_transaction(take_back)
    await copy_home(databases.home, command.saga.id, command.number, found)
    return Undone(number=command.number)


async def _phase_of(databases: Databases, command: UndoCommand) -> Phase:
    async with databases.home.reading() as connection:
        phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == command.saga.id))
    return Phase.FORWARD if phase is None else Phase(phase)


async def _compensate(connection: AsyncConnection, catalog: Catalog, command: UndoCommand, met: Any) -> Any:
    """Take back what is done. The row is locked: nobody else does so, or has."""
    arguments = json.loads(met.arguments)
    result = None if met.result is None else json.loads(met.result)
    operation = catalog.called(met.operation, arguments)
    swap = update(saga_step).where(saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number)
    await connection.execute(swap.values(state=StepState.UNDONE.value))
    tx = Transaction(
        connection,
        saga=command.saga.id,
        step=-command.number,
        event_id=command.saga.event_id,
        event_time=datetime.fromisoformat(command.event_time),
    )
    if isinstance(operation, AtomicOperation):
        await undo_calls(connection, operation, command, arguments, result)
    else:
        async with guarded(connection, "operation"):
            with contained(f"the compensation of {operation.name}"):
                await operation.compensate(tx, arguments, result)
                await tx.flush()
    # Last, as in `fence`: it fails, or finds no such row, where a swallowed error has ended the transaction.
    written = await connection.execute(
        swap.where(saga_step.c.state == StepState.UNDONE.value).values(undone_at=clock.now()).returning(*FENCE)
    )
    undone = written.first()
    if undone is None:
        raise TransactionLost(f"the transaction of {operation.name}'s compensation was ended before it was")
    return undone
