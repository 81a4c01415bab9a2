"""The turn: from forward to undoing, and the undoing of one step.

The turn locks the saga's row and reads the steps in the *next* statement: taking the lock waits for steps that are
open, so that statement sees them all, and whoever comes later finds the guard shut.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import bindparam, literal, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import ATOMIC, AtomicOperation, names_in
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError, storable
from orchestrator.operation import HOME, Reversal
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
from orchestrator.protocol.envelope import canonical, digest, read
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.remote.fence import Unsettled, once_settled
from orchestrator.store.saga.atomic import undo_calls
from orchestrator.store.saga.fence import SagaMissing, TransactionLost, phase_under_share_lock
from orchestrator.store.saga.opening import OpenSaga, insert_into, lock_saga
from orchestrator.transaction import Transaction


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step's row, as far as a turn needs it."""

    number: int
    kind: str
    operation: str
    arguments: str
    irreversible: bool
    state: str
    database: str

    @property
    def is_unsettled(self) -> bool:
        """Whether it cannot be undone, and is done in another database if it is: that has to be found out."""
        return self.irreversible and self._is_elsewhere and self.state == StepState.ATTEMPTING.value

    @property
    def is_past_undoing(self) -> bool:
        """Whether it is done, or outside may have been done, and cannot be undone."""
        return self.irreversible and (self.state == StepState.DONE.value or self._is_unknown)

    @property
    def is_to_undo(self) -> bool:
        """Whether its effect stands, or outside or in another database may stand, and is to be taken back."""
        if self.irreversible or self.kind not in ("operation", "atomic", "external"):
            return False
        may_stand = self._is_unknown or (self._is_elsewhere and self.state == StepState.ATTEMPTING.value)
        return self.state == StepState.DONE.value or may_stand

    @property
    def _is_unknown(self) -> bool:
        return self.kind == "external" and self.state == StepState.ATTEMPTING.value

    @property
    def _is_elsewhere(self) -> bool:
        return self.database != HOME


class UnknownCompensation(OrchestratorError):
    """A recorded step is to be undone, and this worker's code cannot: its operation was renamed or removed."""


def first_past_undoing(saga_id: UUID, steps: Sequence[RecordedStep]) -> int | None:
    """Number of the first step that is done and cannot be undone: the pivot. None: the saga can be undone.

    Raises:
        Unsettled: whether one is done has to be found out in another database first.
    """
    pivot = next((step.number for step in steps if step.is_past_undoing), None)
    unsettled = next((step.number for step in steps if step.is_unsettled), None)
    if pivot is None and unsettled is not None:
        raise Unsettled(saga_id, unsettled)
    return pivot


async def begin_undo(given: Database | Databases, catalog: Catalog, command: BeginUndoCommand) -> BeginUndoReply:
    """Decide that the saga is undone, or learn what was decided already. Safe to repeat.

    Raises:
        UnknownCompensation: the decision stands, and a worker that knows the compensation has to carry it out.
    """
    databases = Databases.of(given)

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
                connection, key, ends_as=ends_as, error_code=command.error_code, message=command.message
            )
        left = [step for step in steps if step.is_to_undo]
        for step in left[::-1]:
            if (unknown := _unknown(catalog, step)) is not None:
                await _stick(connection, command.opening.saga, step.number, str(unknown))
                return unknown  # and the decision stands
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
                for step in reversed(left)
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
    ended_by: str | None = None,
) -> None:
    """Write the decision. Only for who holds the row's lock, and has seen that the saga is not past undoing."""
    await connection.execute(
        update(saga)
        .where(saga.c.id == saga_id, saga.c.phase == Phase.FORWARD.value)
        .values(
            phase=Phase.UNDOING.value,
            reason=ends_as.value,
            error_code=error_code,
            message=storable(message),
            ended_by=ended_by,
            next_at=None,
            progressed_at=clock.now(),
        )
    )


_THE_STEP = (saga_step.c.saga_id == bindparam("of_saga"), saga_step.c.number == bindparam("of_number"))
# The guard is the saga's row under a share lock, the same as a step's: see `fence`.
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
    """Run one compensation: `done` becomes `undone` first, by compare-and-set, then the effect is taken back.

    Raises:
        Exception: what the compensation raised; the step is still `done`, the attempt is counted on its row, and after
            `STUCK_AFTER` of them the saga shows as stuck.
    """

    async def take_back(connection: AsyncConnection) -> UndoReply:
        key = {"of_saga": command.saga.id, "of_number": command.number}
        step = (await connection.execute(_UNDO, key)).first()
        if step is None:
            return await why_not_undone(connection, command)
        arguments = json.loads(step.arguments)
        result = None if step.result is None else json.loads(step.result)
        operation = catalog.called(step.operation, arguments)
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
        # As in `fence`: a transaction that a swallowed error has ended must not pass for one that committed.
        written = await connection.execute(_WRITE_UNDONE, key)
        if written.rowcount != 1:
            raise TransactionLost(f"the transaction of {operation.name}'s compensation was ended before it was")
        return Undone(number=command.number)

    try:
        return await database.in_transaction(take_back)
    except Exception as fault:
        # What counts is the fault itself: that it could not be counted must not stand in its place.
        with contextlib.suppress(SQLAlchemyError, OSError):
            await count_undo_failure(database, command, error_text(fault))
        raise


async def mark_stuck(database: Database, catalog: Catalog, command: MarkStuckCommand) -> None:
    """Show in the saga's row that it waits for a person, or that it goes on."""

    async def mark(connection: AsyncConnection) -> None:
        if command.error is None:
            await _unstick(connection, command.saga, command.number)
            return
        await _stick(connection, command.saga, command.number, command.error)
        if command.step is not None:
            await _write_down(connection, catalog, command.step)

    await database.in_transaction(mark)


async def _write_down(connection: AsyncConnection, catalog: Catalog, step: StepCommand) -> None:
    """A row for a step past the pivot that fails, as `attempting`: what a person skips, and the next attempt does."""
    arguments = canonical(step.arguments)
    phase = phase_under_share_lock(step.saga.id).subquery("guard")
    values = {
        saga_step.c.saga_id: step.saga.id,
        saga_step.c.number: step.number,
        saga_step.c.kind: "atomic" if step.operation == ATOMIC.name else "operation",
        saga_step.c.operation: step.operation,
        saga_step.c.database: catalog.called(step.operation, step.arguments).database,
        saga_step.c.arguments: arguments,
        saga_step.c.digest: digest(f"{step.operation}{arguments}"),
        saga_step.c.irreversible: False,
        saga_step.c.attempt_token: uuid4(),
        saga_step.c.state: StepState.ATTEMPTING.value,
    }
    given = [*(literal(value, column.type) for column, value in values.items()), clock.now()]
    source = select(*given).select_from(phase)
    forward = source.where(phase.c.phase == Phase.FORWARD.value)
    await connection.execute(
        insert_into(connection, saga_step)
        .from_select([*values, saga_step.c.created_at], forward)
        .on_conflict_do_nothing()
    )


_STEPS = (
    select(
        saga_step.c.saga_id,
        saga_step.c.number,
        saga_step.c.kind,
        saga_step.c.operation,
        saga_step.c.arguments,
        saga_step.c.irreversible,
        saga_step.c.state,
        saga_step.c.database,
    )
    .where(saga_step.c.saga_id.in_(bindparam("sagas", expanding=True)))
    .order_by(saga_step.c.saga_id, saga_step.c.number)
)


async def steps_of(connection: AsyncConnection, saga_id: UUID) -> list[RecordedStep]:
    """A saga's steps in order. Ask only in a statement after the one that locked the saga's row."""
    return (await steps_of_each(connection, [saga_id])).get(saga_id, [])


async def steps_of_each(connection: AsyncConnection, sagas: Sequence[UUID]) -> dict[UUID, list[RecordedStep]]:
    """The steps of each saga that has any, in order; as `steps_of`."""
    found: dict[UUID, list[RecordedStep]] = {}
    if sagas:
        for row in await connection.execute(_STEPS, {"sagas": list(sagas)}):
            found.setdefault(row.saga_id, []).append(RecordedStep(*row[1:]))
    return found


def _unknown(catalog: Catalog, step: RecordedStep) -> UnknownCompensation | None:
    """Why a recorded step cannot be undone by this worker's code, or None if it can."""
    for name in names_in(step.operation, json.loads(step.arguments)):
        known = catalog.operations.get(name)
        if known is None or (known.undo is None and known.reversal is Reversal.COMPENSATED):
            lacks = "no operation" if known is None else "no compensation of the operation"
            return UnknownCompensation(
                f"step {step.number} is to be undone, and this worker's code has {lacks} {name}. Deploy code that has "
                "it, under the name that is recorded; or take its effect back by hand and skip the step"
            )
    return None


def _compensation(catalog: Catalog, operation: str) -> str:
    known = ATOMIC if operation == ATOMIC.name else catalog.operations.get(operation)
    if known is None or known.undo is None:
        raise UnknownCompensation(f"{operation} is to be undone, and this worker knows no compensation of it")
    return known.undo.name


def _attempt_limit(catalog: Catalog, operation: str) -> float | None:
    limit = catalog.operation(operation).attempt_limit
    return None if limit is None else limit.total_seconds()


async def _stick(connection: AsyncConnection, ref: SagaRef, number: int, error: str) -> None:
    await connection.execute(
        update(saga)
        .where(saga.c.id == ref.id, saga.c.phase.in_((Phase.FORWARD.value, Phase.UNDOING.value)))
        .values(stuck_step=number, stuck_error=storable(error), stuck_since=clock.now())
    )


async def _unstick(connection: AsyncConnection, ref: SagaRef, number: int) -> None:
    await connection.execute(
        update(saga)
        .where(saga.c.id == ref.id, saga.c.stuck_step == number)
        .values(stuck_step=None, stuck_error=None, stuck_since=None, progressed_at=clock.now())
    )


async def why_not_undone(connection: AsyncConnection, command: UndoCommand) -> UndoReply:
    """What to answer where there was nothing to undo.

    Raises:
        SagaMissing: the row is gone.
    """
    phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == command.saga.id))
    if phase is None:
        raise SagaMissing(f"saga {command.saga.orchestrator}/{command.saga.event_id} has no row here")
    if phase != Phase.UNDOING.value:
        return Decided(phase=Phase(phase))
    return Undone(number=command.number)


async def count_undo_failure(database: Database, command: UndoCommand, error: str) -> None:
    """Count a failed compensation on its step's row; after `STUCK_AFTER` of them the saga shows as stuck."""
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
            await _stick(connection, command.saga, command.number, f"undoing {command.shown}: {error}")
