"""The undo of a remote step: compensates it in the remote database if it has happened there, and bars it otherwise."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Decided, Phase, StepState, UndoCommand, Undone, UndoReply
from orchestrator.store.core import clock
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.remote.fence import FENCE, copy_home, home_row, insert_first
from orchestrator.store.saga.fence import saga_missing, transaction_lost
from orchestrator.store.saga.step_rows import NewStep
from orchestrator.store.saga.undo import counting_failure, run_compensation


async def undo_remote_step(databases: Databases, catalog: Catalog, command: UndoCommand) -> UndoReply:
    """Undo a remote step in one transaction in the remote database and one at home. Safe to repeat.

    The phase is checked before anything is done remotely. An undoing saga never becomes forward or completed again, so
    what may be undone once may be undone at any later time; the remote row decides that it happens once.

    Raises:
        DatabaseMissing: the remote database's address is not known here.
        SagaMissing: the saga's row is not in the home database.
        Exception: whatever the compensation raised; the step is unchanged, and the attempt is counted on its row at
            home.
    """
    async with counting_failure(databases.home, command):
        return await _undo(databases, catalog, command)


async def _undo(databases: Databases, catalog: Catalog, command: UndoCommand) -> UndoReply:
    row = await home_row(databases.home, command.saga.id, command.number)
    if row is None and (phase := await _phase_of(databases, command)).is_final:
        return Decided(phase=phase)  # the step's row has been purged
    if row is None or row.saga_phase is None:
        raise saga_missing(command.saga)
    if row.saga_phase != Phase.UNDOING.value:
        return Decided(phase=Phase(row.saga_phase))
    if row.state not in (StepState.ATTEMPTING.value, StepState.DONE.value):
        return Undone(number=command.number)
    remote = databases.named(row.database)

    async def undo_it(connection: AsyncConnection) -> Any:
        remote_row, _ = await insert_first(connection, NewStep.copy_of(row), StepState.BARRED)
        if remote_row.state != StepState.DONE.value:
            return remote_row
        return await _compensate(connection, catalog, command, remote_row)

    remote_row = await remote.in_transaction(undo_it)
    await copy_home(databases.home, command.saga.id, command.number, remote_row)
    return Undone(number=command.number)


async def _phase_of(databases: Databases, command: UndoCommand) -> Phase:
    async with databases.home.reading() as connection:
        phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == command.saga.id))
    return Phase.FORWARD if phase is None else Phase(phase)


async def _compensate(connection: AsyncConnection, catalog: Catalog, command: UndoCommand, step: Any) -> Any:
    """Undo a step that is done; its row is locked, so no other transaction undoes it at the same time."""
    swap = update(saga_step).where(saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number)
    await connection.execute(swap.values(state=StepState.UNDONE.value))
    await run_compensation(connection, catalog, command, step)
    # Last, as in `fence`: in a transaction that a swallowed error has ended, this fails or finds no such row.
    written = await connection.execute(
        swap.where(saga_step.c.state == StepState.UNDONE.value).values(undone_at=clock.now()).returning(*FENCE)
    )
    undone = written.first()
    if undone is None:
        raise transaction_lost(f"{step.operation}'s compensation")
    return undone
