"""The fence: the reason why an operation's effects happen once, however often the operation is attempted.

Each step has one row, which is inserted first in the operation's own transaction. The same statement contains the
guard, which reads the saga's phase under a share lock. An attempt that inserts the row runs the operation; an attempt
that finds the row returns the result or refusal it records. The idea is DTM's sub-transaction barrier: a unique key in
the business transaction.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import JsonValue, ValidationError
from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import AtomicOperation
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import AuthorsMistake, OrchestratorError, Refused
from orchestrator.operation import HOME, Operation, Reversal
from orchestrator.protocol.commands import (
    Decided,
    Diverged,
    Phase,
    Resume,
    SagaRef,
    StepCommand,
    StepDone,
    StepReply,
    StepState,
)
from orchestrator.protocol.containment import contained
from orchestrator.protocol.messages.envelope import CONTENT_LIMIT, canonical
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.driver_text import DriverText
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.atomic import refusal_record, refused_reply, run_calls
from orchestrator.store.saga.opening import OpenedBefore, begin_saga
from orchestrator.store.saga.step_rows import NewStep, StepAttempt, describe_call
from orchestrator.store.saga.step_transaction import transaction_of
from orchestrator.values.results import result_as_json, result_as_text


@dataclass(frozen=True, slots=True)
class Attempting:
    """The step is external or remote, and an earlier attempt has begun without recording how it ended."""

    since: datetime | None
    """When the last attempt began; None if the end of that attempt was recorded."""


class SagaMissing(OrchestratorError):
    """The saga's row is not in this database, although one of its steps was attempted here."""


def saga_missing(ref: SagaRef) -> SagaMissing:
    """Build the error for a saga whose row is not in this database."""
    return SagaMissing(
        f"saga {ref.orchestrator}/{ref.event_id} has no row in this database; check that "
        "ORCHESTRATOR_DATABASE_URL is the database in which the saga was begun"
    )


class ResultTooLarge(AuthorsMistake):
    """An operation's result takes more bytes than a workflow history should carry."""


class RefusedPastPivot(OrchestratorError):
    """A step past the pivot was refused; nothing can be undone there, so it is retried, and an operator may skip it."""


class TransactionLost(OrchestratorError):
    """The database ended a step's transaction while the operation ran, and the operation swallowed the error."""


def transaction_lost(work: str) -> TransactionLost:
    """Build the error for an operation, or a compensation, whose transaction ended before it did."""
    return TransactionLost(
        f"the transaction of {work} ended before the code that used it, so nothing was committed; "
        "check that this code does not swallow database errors"
    )


def phase_under_share_lock(saga_id: UUID | ColumnElement[UUID]) -> Select[tuple[str]]:
    """Return the guard, which reads a saga's phase under a share lock.

    It waits for a transaction that is beginning the undo, and then sees its decision. Until this transaction ends, the
    next such transaction has to wait. On SQLite there is one writer at a time, so no lock is needed.
    """
    return select(saga.c.phase).where(saga.c.id == saga_id).with_for_update(read=True)


_WRITE_RESULT = DriverText(
    update(saga_step)
    .where(
        saga_step.c.saga_id == bindparam("of_saga"),
        saga_step.c.number == bindparam("of_number"),
        saga_step.c.state == StepState.DONE.value,
    )
    .values(result=bindparam("recorded"), done_at=clock.now())
)


async def run_step(database: Database, catalog: Catalog, command: StepCommand, *, attempt: int = 1) -> StepReply:
    """Attempt a step: its effect and its record in one transaction or, if it is refused, only the refusal.

    Raises:
        SagaMissing: the saga's row is not in this database.
        Exception: whatever the operation raised; its transaction was rolled back, and it may be retried.
    """
    step = StepAttempt.of(command, catalog, attempt)

    async def attempt_it(connection: AsyncConnection) -> StepReply:
        return await _attempt(connection, catalog, step)

    try:
        try:
            return await database.in_transaction(attempt_it)
        except Refused as refusal:
            if command.past_pivot:
                raise RefusedPastPivot(f"{refusal.code}: {refusal.message}") from refusal
            refused = refusal

        async def record_it(connection: AsyncConnection) -> StepReply:
            return await _record_refusal(connection, catalog, step, refused)

        # The refused transaction was rolled back. If another driver has done the step since, its record is returned.
        return await database.in_transaction(record_it)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)


async def _attempt(connection: AsyncConnection, catalog: Catalog, step: StepAttempt) -> StepReply:
    recorded_before = await claim(connection, catalog, step, StepState.DONE)
    if recorded_before is not None:
        return _reply_of(recorded_before)
    command, operation = step.command, step.operation
    result, recorded = recordable(operation, await perform(connection, step))
    # The update also runs for an operation without a result: if the operation swallowed a database error, PostgreSQL
    # answers COMMIT with a silent rollback. This statement fails in such a transaction, or finds no fence row.
    written = await _WRITE_RESULT.execute(
        connection, {"of_saga": command.saga.id, "of_number": command.number, "recorded": recorded}
    )
    if written.rowcount != 1:
        raise transaction_lost(operation.name)
    return StepDone(number=command.number, operation=operation.name, result=result)


async def perform(connection: AsyncConnection, step: StepAttempt) -> object:
    """Run the operation in the transaction that also records it, and return its result.

    Raises:
        Exception: whatever the operation raised.
    """
    command, operation = step.command, step.operation
    if isinstance(operation, AtomicOperation):
        return await run_calls(connection, operation, command)
    tx = transaction_of(connection, command)
    arguments = operation.signature.load_arguments(command.arguments)
    async with guarded(connection, "query" if operation.reversal is Reversal.NOTHING else "operation"):
        with contained(operation.name):
            returned = await operation.body(tx, **arguments)
            await tx.write_out()
    return returned


def _reply_of(recorded: StepReply | Attempting) -> StepReply:
    if isinstance(recorded, Attempting):
        raise OrchestratorError("a step that commits in one transaction is recorded as an external or remote one")
    return recorded


async def _record_refusal(
    connection: AsyncConnection, catalog: Catalog, step: StepAttempt, refusal: Refused
) -> StepReply:
    record = refusal_record(refusal)
    recorded_before = await claim(connection, catalog, step, StepState.REFUSED, error=canonical(record))
    if recorded_before is not None:
        return _reply_of(recorded_before)
    return refused_reply(step.command.number, step.operation.name, record)


def recordable(operation: Operation[..., object], returned: object) -> tuple[JsonValue, str | None]:
    """Return an operation's result twice: as JSON, and as the text that its row stores.

    Raises:
        ResultInvalid: the result is not of the type that the operation declares.
        ResultTooLarge: the result takes more bytes than `CONTENT_LIMIT`.
    """
    result = result_as_json(operation.name, operation.signature, returned)
    recorded = result_as_text(operation.name, operation.signature, returned, result)
    if recorded is not None and (size := len(recorded.encode())) > CONTENT_LIMIT:
        raise ResultTooLarge(
            f"the result of {operation.name} takes {size:,} bytes and the limit is {CONTENT_LIMIT:,}; "
            "store large data in a table and return its key"
        )
    return result, recorded


_CLAIMED = (
    "saga_id",
    "number",
    "kind",
    "operation",
    "database",
    "arguments",
    "digest",
    "irreversible",
    "attempt_token",
    "state",
    "error",
    "attempts",
    "idempotency_key",
)


def _parameter(column: str) -> str:
    return f"given_{column}"


@cache
def _claim_statement(dialect: str, *, attempting: bool) -> DriverText:
    """Build the guard and the fence as one statement, once per database, because building costs more than running."""
    columns: dict[str, ColumnElement[Any]] = {
        name: bindparam(_parameter(name), type_=saga_step.c[name].type) for name in _CLAIMED
    }
    # Evaluated after the guard, which may wait for seconds, because this time decides whether an external call may
    # still be in flight.
    columns |= {"created_at": clock.now(), "attempted_at" if attempting else "done_at": clock.evaluated_now()}
    key: BindParameter[UUID] = bindparam(_parameter("saga_id"), type_=saga_step.c.saga_id.type)
    guard = phase_under_share_lock(key).subquery("guard")
    source = select(*columns.values()).select_from(guard).where(guard.c.phase == Phase.FORWARD.value)
    make: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    insert = make(saga_step).from_select(list(columns), source)
    # DO NOTHING would wait for the other driver and then not see its row; DO UPDATE returns it as committed.
    return DriverText(
        insert.on_conflict_do_update(
            index_elements=[saga_step.c.saga_id, saga_step.c.number], set_={"number": insert.excluded.number}
        ).returning(
            saga_step.c.attempt_token,
            saga_step.c.operation,
            saga_step.c.database,
            saga_step.c.arguments,
            saga_step.c.digest,
            saga_step.c.state,
            saga_step.c.result,
            saga_step.c.error,
            saga_step.c.attempted_at,
        )
    )


async def claim(
    connection: AsyncConnection,
    catalog: Catalog,
    step: StepAttempt,
    state: StepState,
    *,
    error: str | None = None,
    idempotency_key: str | None = None,
) -> StepReply | Attempting | None:
    """Insert the step's row, or reply with what an existing row records.

    Returns:
        None if this attempt may do the step: it has inserted the row, or taken over an open one.
    """
    command, operation = step.command, step.operation
    if command.opening is not None:
        begins = state is not StepState.REFUSED
        elsewhere = await begin_saga(connection, command.opening, catalog, begins=begins)
        if elsewhere is not None:
            return elsewhere
    new = NewStep.of(step)
    attempting = state is StepState.ATTEMPTING
    values = new.values(state) | {"error": error, "attempts": step.number, "idempotency_key": idempotency_key}
    token = values["attempt_token"]
    statement = _claim_statement(connection.dialect.name, attempting=attempting)
    parameters = {_parameter(name): value for name, value in values.items()}
    row = (await statement.execute(connection, parameters)).first()
    if row is None:
        return await _why_guarded(connection, command.saga)
    if row.attempt_token == token:
        return None
    if row.digest != new.digest and not _is_same_call(row, operation, command.arguments):
        return Diverged(
            number=command.number,
            recorded=describe_call(row.operation, json.loads(row.arguments)),
            requested=describe_call(operation.name, command.arguments),
        )
    if row.state != StepState.ATTEMPTING.value:
        return recorded_reply(command.number, operation.name, row)
    if row.database != operation.database:
        # The step may already be done in that database, which holds its effect together with its record.
        return Diverged(
            number=command.number,
            recorded=f"{row.operation} in database {row.database}",
            requested=f"{operation.name} in database {operation.database}",
        )
    if operation.kind == "external" or operation.database != HOME:
        return Attempting(row.attempted_at)
    # A step past the pivot that was recorded when it was marked as stuck, so that an operator can skip it.
    # It was not skipped, so this attempt runs it.
    takeover: dict[str, Any] = {"state": state.value, "error": error, "attempts": step.number, "done_at": clock.now()}
    takeover |= {"kind": operation.kind, "irreversible": operation.reversal is Reversal.IRREVERSIBLE}
    await connection.execute(
        update(saga_step)
        .where(saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number)
        .values(takeover)
    )
    return None


def recorded_reply(number: int, operation: str, row: Any) -> StepReply:
    """Return the reply that a step's row records."""
    match StepState(row.state):
        case StepState.DONE:
            return StepDone(
                number=number, operation=operation, result=None if row.result is None else json.loads(row.result)
            )
        case StepState.SKIPPED:
            # The saga is going forward, where only a step past the pivot can be skipped.
            return StepDone(number=number, operation=operation, result=None)
        case StepState.REFUSED:
            return refused_reply(number, operation, json.loads(row.error))
        case _:
            return Decided(phase=Phase.UNDOING)


async def _why_guarded(connection: AsyncConnection, ref: SagaRef) -> Decided:
    phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == ref.id))
    if phase is None:
        raise saga_missing(ref)
    return Decided(phase=Phase(phase))


def _is_same_call(row: Any, operation: Operation[..., object], arguments: Mapping[str, JsonValue]) -> bool:
    """Whether a row records this call, read through the current types, which may have gained a default since."""
    if row.operation != operation.name:
        return False
    try:
        recorded = operation.signature.load_arguments(json.loads(row.arguments))
        return operation.signature.dump_arguments(recorded) == dict(arguments)
    except ValidationError:
        return False
