"""The undo: changes a saga's phase from forward to undoing, and compensates one step at a time.

The transaction that begins the undo locks the saga's row and reads the steps in the *next* statement. Taking the lock
waits for steps that are open, so that statement sees all of them, and steps that come later fail at the guard.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import bindparam, literal, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import ATOMIC, AtomicOperation, names_in
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError, storable
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import (
    STUCK_AFTER,
    BeginUndoCommand,
    BeginUndoReply,
    Decided,
    MarkStuckCommand,
    PastPivot,
    Phase,
    Reused,
    SagaRef,
    StepCommand,
    StepState,
    UndoableStep,
    UndoCommand,
    Undone,
    UndoPlan,
    UndoReply,
)
from orchestrator.protocol.containment import contained
from orchestrator.protocol.messages.envelope import canonical, read
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.remote.fence import Unsettled, once_settled
from orchestrator.store.saga.atomic import undo_calls
from orchestrator.store.saga.fence import phase_under_share_lock, saga_missing, transaction_lost
from orchestrator.store.saga.opening import OpenSaga, insert_into, lock_saga
from orchestrator.store.saga.step_rows import NewStep, RecordedStep, StepAttempt, steps_of
from orchestrator.store.saga.step_transaction import transaction_of


class UnknownCompensation(OrchestratorError):
    """A recorded step must be undone, but this worker's code cannot, because the operation was renamed or removed."""


def first_past_undoing(saga_id: UUID, steps: Sequence[RecordedStep]) -> int | None:
    """Return the number of the pivot: the first step that is done and cannot be undone. None if the saga can be undone.

    Raises:
        Unsettled: a remote database must first be asked whether such a step is done.
    """
    pivot = next((step.number for step in steps if step.is_past_undoing), None)
    unsettled = next((step.number for step in steps if step.is_unsettled), None)
    if pivot is None and unsettled is not None:
        raise Unsettled(saga_id, unsettled)
    return pivot


async def begin_undo(database: Database | Databases, catalog: Catalog, command: BeginUndoCommand) -> BeginUndoReply:
    """Decide that the saga is undone, or return what was decided before. Safe to repeat.

    Raises:
        UnknownCompensation: the saga is undoing, and a worker whose code has the compensation must continue.
    """
    databases = Databases.of(database)

    async def decide(connection: AsyncConnection) -> BeginUndoReply | UnknownCompensation:
        key = command.opening.saga.id
        if command.only_recorded and await connection.scalar(select(saga.c.id).where(saga.c.id == key)) is None:
            return Reused()
        row = await lock_saga(connection, command.opening, catalog)
        if not isinstance(row, OpenSaga):
            return row
        steps = await steps_of(connection, key)
        ends_as = row.reason
        if row.phase is Phase.FORWARD:
            pivot = first_past_undoing(key, steps)
            if pivot is not None:
                await connection.execute(update(saga).where(saga.c.id == key).values(pivot_step=pivot))
                return PastPivot(number=pivot)
            ends_as = command.ends_as
            await begin_undoing(
                connection,
                key,
                ends_as=ends_as,
                error_code=command.error_code,
                message=command.message,
                details=command.details,
            )
        to_undo = [step for step in steps if step.is_to_undo]
        for step in to_undo[::-1]:
            if (unknown := _unknown_compensation(catalog, step)) is not None:
                await _set_stuck(connection, command.opening.saga, step.number, str(unknown))
                return unknown  # returned and not raised, so that the decision is committed
        return UndoPlan(
            steps=tuple(
                UndoableStep(
                    number=step.number,
                    operation=step.operation,
                    compensation=_compensation(catalog, step.operation),
                    attempt_limit=_attempt_limit(catalog, step.operation),
                    calls=names_in(step.operation, json.loads(step.arguments)) if step.kind == "atomic" else (),
                    database=step.database,
                )
                for step in reversed(to_undo)
            ),
            ends_as=ends_as or Phase.FAILED,
            event_time=read(row.envelope).time.isoformat(),
        )

    reply = await once_settled(databases, lambda: databases.home.in_transaction(decide))
    if isinstance(reply, UnknownCompensation):
        raise reply
    return reply


async def begin_undoing(
    connection: AsyncConnection,
    saga_id: UUID,
    *,
    ends_as: Phase,
    error_code: str,
    message: str,
    details: Mapping[str, JsonValue] | None = None,
    ended_by: str | None = None,
) -> None:
    """Write the decision. The caller holds the lock of the saga's row and has seen that the saga can be undone."""
    await connection.execute(
        update(saga)
        .where(saga.c.id == saga_id, saga.c.phase == Phase.FORWARD.value)
        .values(
            phase=Phase.UNDOING.value,
            reason=ends_as.value,
            error_code=error_code,
            message=storable(message),
            details=None if details is None else canonical(details),
            ended_by=ended_by,
            next_at=None,
            progressed_at=clock.now(),
        )
    )


_THE_STEP = (saga_step.c.saga_id == bindparam("of_saga"), saga_step.c.number == bindparam("of_number"))
# The guard is the saga's row under a share lock, as for a step: see `fence`.
_UNDO = (
    update(saga_step)
    .where(
        *_THE_STEP,
        saga_step.c.state == StepState.DONE.value,
        phase_under_share_lock(bindparam("of_saga", type_=saga.c.id.type)).scalar_subquery() == Phase.UNDOING.value,
    )
    .values(state=StepState.UNDONE.value, undone_at=clock.now(), undo_attempts=saga_step.c.undo_attempts + 1)
    .returning(saga_step.c.operation, saga_step.c.arguments, saga_step.c.result)
)
_WRITE_UNDONE = (
    update(saga_step).where(*_THE_STEP, saga_step.c.state == StepState.UNDONE.value).values(undone_at=clock.now())
)


async def undo_step(database: Database, catalog: Catalog, command: UndoCommand) -> UndoReply:
    """Run one compensation. A compare-and-set changes the step from `done` to `undone` before the compensation runs.

    Raises:
        Exception: whatever the compensation raised; the step is still `done`, the attempt is counted on its row, and
            after `STUCK_AFTER` attempts the saga is marked as stuck.
    """

    async def undo_it(connection: AsyncConnection) -> UndoReply:
        key = {"of_saga": command.saga.id, "of_number": command.number}
        step = (await connection.execute(_UNDO, key)).first()
        if step is None:
            return await why_not_undone(connection, command)
        await run_compensation(connection, catalog, command, step)
        # As in `fence`: a transaction that a swallowed error has ended must not look like one that committed.
        written = await connection.execute(_WRITE_UNDONE, key)
        if written.rowcount != 1:
            raise transaction_lost(f"{step.operation}'s compensation")
        return Undone(number=command.number)

    async with counting_failure(database, command):
        return await database.in_transaction(undo_it)


@contextlib.asynccontextmanager
async def counting_failure(database: Database, command: UndoCommand) -> AsyncGenerator[None]:
    """Count an attempt to undo a step on its row if the attempt raises, then raise the same error."""
    try:
        yield
    except Exception as fault:
        # An error while counting must not replace the attempt's own error, which matters more.
        with contextlib.suppress(SQLAlchemyError, OSError):
            await count_undo_failure(database, command, error_text(fault))
        raise


async def run_compensation(connection: AsyncConnection, catalog: Catalog, command: UndoCommand, step: Any) -> None:
    """Run the compensation of the call that a step's row records, in the transaction that marks it as undone.

    Raises:
        Exception: whatever the compensation raised.
    """
    arguments = json.loads(step.arguments)
    result = None if step.result is None else json.loads(step.result)
    operation = catalog.called(step.operation, arguments)
    if isinstance(operation, AtomicOperation):
        await undo_calls(connection, operation, command, arguments, result)
        return
    tx = transaction_of(connection, command)
    async with guarded(connection, "operation"):
        with contained(f"the compensation of {operation.name}"):
            await operation.compensate(tx, arguments, result)
            await tx.flush()


async def mark_stuck(database: Database, catalog: Catalog, command: MarkStuckCommand) -> None:
    """Mark a saga as stuck at a step or, if the command has no error, as no longer stuck."""

    async def mark(connection: AsyncConnection) -> None:
        if command.error is None:
            await _clear_stuck(connection, command.saga, command.number)
            return
        await _set_stuck(connection, command.saga, command.number, command.error)
        if command.step is not None:
            await _record_stuck_step(connection, catalog, command.step)

    await database.in_transaction(mark)


async def _record_stuck_step(connection: AsyncConnection, catalog: Catalog, command: StepCommand) -> None:
    """Record a failing step past the pivot as `attempting`, so that an operator can skip it before the next attempt."""
    kind = "atomic" if command.operation == ATOMIC.name else "operation"
    step = replace(NewStep.of(StepAttempt.of(command, catalog)), kind=kind, irreversible=False)
    guard = phase_under_share_lock(command.saga.id).subquery("guard")
    columns = {saga_step.c[name]: value for name, value in step.values(StepState.ATTEMPTING).items()}
    values = [*(literal(value, column.type) for column, value in columns.items()), clock.now()]
    source = select(*values).select_from(guard)
    forward = source.where(guard.c.phase == Phase.FORWARD.value)
    await connection.execute(
        insert_into(connection, saga_step)
        .from_select([*columns, saga_step.c.created_at], forward)
        .on_conflict_do_nothing()
    )


def _unknown_compensation(catalog: Catalog, step: RecordedStep) -> UnknownCompensation | None:
    """Return why this worker's code cannot undo a recorded step, or None if it can."""
    for name in names_in(step.operation, json.loads(step.arguments)):
        known = catalog.operations.get(name)
        if known is None or (known.undo is None and known.reversal is Reversal.COMPENSATED):
            missing = "no operation" if known is None else "no compensation for the operation"
            return UnknownCompensation(
                f"step {step.number} is to be undone, but this worker has {missing} {name}. Deploy code that has "
                "it under the recorded name, or undo the step's effect by hand and skip the step"
            )
    return None


def _compensation(catalog: Catalog, operation: str) -> str:
    known = ATOMIC if operation == ATOMIC.name else catalog.operations.get(operation)
    if known is None or known.undo is None:
        raise UnknownCompensation(
            f"{operation} is to be undone, but this worker's code has no compensation for it. Deploy code that has "
            "one, or undo the step's effect by hand and skip the step"
        )
    return known.undo.name


def _attempt_limit(catalog: Catalog, operation: str) -> float | None:
    limit = catalog.operation(operation).attempt_limit
    return None if limit is None else limit.total_seconds()


async def _set_stuck(connection: AsyncConnection, ref: SagaRef, number: int, error: str) -> None:
    await connection.execute(
        update(saga)
        .where(saga.c.id == ref.id, saga.c.phase.in_((Phase.FORWARD.value, Phase.UNDOING.value)))
        .values(stuck_step=number, stuck_error=storable(error), stuck_since=clock.now())
    )


async def _clear_stuck(connection: AsyncConnection, ref: SagaRef, number: int) -> None:
    await connection.execute(
        update(saga)
        .where(saga.c.id == ref.id, saga.c.stuck_step == number)
        .values(stuck_step=None, stuck_error=None, stuck_since=None, progressed_at=clock.now())
    )


async def why_not_undone(connection: AsyncConnection, command: UndoCommand) -> UndoReply:
    """Return the reply for a step that had nothing to undo.

    Raises:
        SagaMissing: the saga's row is not in this database.
    """
    phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == command.saga.id))
    if phase is None:
        raise saga_missing(command.saga)
    if phase != Phase.UNDOING.value:
        return Decided(phase=Phase(phase))
    return Undone(number=command.number)


async def count_undo_failure(database: Database, command: UndoCommand, error: str) -> None:
    """Count a failed compensation on its step's row; after `STUCK_AFTER` failures, mark the saga as stuck."""
    async with database.transaction() as connection:
        counted = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == command.saga.id,
                saga_step.c.number == command.number,
                saga_step.c.state.in_((StepState.DONE.value, StepState.ATTEMPTING.value)),
            )
            .values(undo_attempts=saga_step.c.undo_attempts + 1, undo_error=storable(error))
            .returning(saga_step.c.undo_attempts)
        )
        attempts = counted.scalar_one_or_none()
        if attempts is not None and attempts >= STUCK_AFTER:
            await _set_stuck(connection, command.saga, command.number, f"undoing {command.shown}: {error}")
