"""The fence: why an operation's effects happen once, however often it is attempted.

One row a saga's step, inserted first in the operation's own transaction, behind the guard that reads the saga's phase
under a share lock: the two are one statement. Whoever inserts runs the operation; whoever meets the row takes what it
recorded, a result or a refusal. The idea is DTM's sub-transaction barrier (a unique key in the business transaction).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID, uuid4

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
    StepRefused,
    StepReply,
    StepState,
    text_of,
)
from orchestrator.protocol.containment import contained
from orchestrator.protocol.envelope import CONTENT_LIMIT, canonical, digest
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.driver_text import DriverText
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.atomic import RefusedWithin, refusal_record, run_calls
from orchestrator.store.saga.opening import OpenedBefore, begin_saga
from orchestrator.transaction import Transaction
from orchestrator.values.results import result_as_json, result_as_text


@dataclass(frozen=True, slots=True)
class Attempting:
    """An external step, or one in another database, was attempted before, and its fate is not recorded here."""

    since: datetime | None
    """When an attempt began whose end nobody has seen; None if the last one's end was seen."""


class SagaMissing(OrchestratorError):
    """The saga's row is not in this database, though a step of it was done here."""


class ResultTooLarge(AuthorsMistake):
    """An operation's result takes more than a history should carry."""


class RefusedPastPivot(OrchestratorError):
    """A step said no where nothing is undone any more: it is tried again, and a person may skip it."""


class TransactionLost(OrchestratorError):
    """The database ended a step's transaction while the operation ran, and the operation swallowed the error."""


def phase_under_share_lock(saga_id: UUID | BindParameter[UUID]) -> Select[tuple[str]]:
    """The guard: waits for a turn that is under way and then sees it, and holds off the next (SQLite: one writer)."""
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
    """Attempt a step: one transaction with its effect and its record, or a refusal recorded in its stead.

    Raises:
        SagaMissing: the row is gone.
        Exception: what the operation raised; nothing stands, and it may be tried again.
    """
    operation = catalog.called(command.operation, command.arguments)

    async def attempt_it(connection: AsyncConnection) -> StepReply:
        return await _attempt(connection, catalog, command, operation, attempt)

    try:
        try:
            return await database.in_transaction(attempt_it)
        except Refused as refusal:
            if command.past_pivot:
                raise RefusedPastPivot(f"{refusal.code}: {refusal.message}") from refusal
            said = refusal

        async def record_it(connection: AsyncConnection) -> StepReply:
            return await _record_refusal(connection, catalog, command, operation, attempt, said)

        # The refused transaction is gone, effects and all. Another driver may have done the step since: it was first.
        return await database.in_transaction(record_it)
    except OpenedBefore as met:
        return Resume(envelope=met.envelope)


async def _attempt(
    connection: AsyncConnection, catalog: Catalog, command: StepCommand, operation: Operation[..., object], attempt: int
) -> StepReply:
    met = await claim(connection, catalog, command, operation, attempt, StepState.DONE)
    if met is not None:
        return _settled(met)
    returned = await perform(connection, operation, command)
    result, recorded = recordable(operation, returned)
    # Also without a result: an operation that swallowed a database error left a transaction that only rolls back, and
    # its COMMIT would say nothing. This statement fails there, or finds the fence row gone.
    written = await _WRITE_RESULT.execute(
        connection,
        {
            "of_saga": command.saga.id,
            "of_number": command.number,
            "recorded": recorded,
        },
    )
    if written.rowcount != 1:
        raise TransactionLost(f"the transaction of {operation.name} was ended before the operation was")
    return StepDone(number=command.number, operation=operation.name, result=result)


async def perform(connection: AsyncConnection, operation: Operation[..., object], command: StepCommand) -> object:
    """Run the operation in the transaction that also records it; what it returned.

    Raises:
        Exception: what the operation raised.
    """
    if isinstance(operation, AtomicOperation):
        return await run_calls(connection, operation, command)
    tx = Transaction(
        connection,
        saga=command.saga.id,
        step=command.number,
        event_id=command.saga.event_id,
        event_time=datetime.fromisoformat(command.event_time),
    )
    arguments = operation.signature.load_arguments(command.arguments)
    async with guarded(connection, "query" if operation.reversal is Reversal.NOTHING else "operation"):
        with contained(operation.name):
            returned = await operation.body(tx, **arguments)
            await tx.write_out()
    return returned


def _settled(met: StepReply | Attempting) -> StepReply:
    if isinstance(met, Attempting):
        raise OrchestratorError("an external step is recorded where a transaction was expected")
    return met


async def _record_refusal(
    connection: AsyncConnection,
    catalog: Catalog,
    command: StepCommand,
    operation: Operation[..., object],
    attempt: int,
    refusal: Refused,
) -> StepReply:
    error = canonical(refusal_record(refusal))
    met = await claim(connection, catalog, command, operation, attempt, StepState.REFUSED, error=error)
    if met is not None:
        return _settled(met)
    said_by = refusal.operation if isinstance(refusal, RefusedWithin) else operation.name
    return StepRefused(number=command.number, operation=said_by, code=refusal.code, message=refusal.message)


def recordable(operation: Operation[..., object], returned: object) -> tuple[JsonValue, str | None]:
    """What an operation returned, as JSON and as its row keeps it.

    Raises:
        ResultInvalid: it is not what the operation declares.
        ResultTooLarge: it takes more bytes than `CONTENT_LIMIT`.
    """
    result = result_as_json(operation.name, operation.signature, returned)
    recorded = result_as_text(operation.name, operation.signature, returned, result)
    if recorded is not None and (size := len(recorded.encode())) > CONTENT_LIMIT:
        raise ResultTooLarge(f"the result of {operation.name} takes {size:,} bytes and the limit is {CONTENT_LIMIT:,}")
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


def _given(column: str) -> str:
    return f"given_{column}"


@cache
def _claiming(dialect: str, *, attempting: bool) -> DriverText:
    """The guard and the fence as one statement, built once for each database: building cost more than running it."""
    given: dict[str, ColumnElement[Any]] = {
        name: bindparam(_given(name), type_=saga_step.c[name].type) for name in _CLAIMED
    }
    # The guard may wait for seconds: who asks later whether a call is still under way counts from its end.
    given |= {"created_at": clock.now(), "attempted_at" if attempting else "done_at": clock.evaluated_now()}
    key: BindParameter[UUID] = bindparam(_given("saga_id"), type_=saga_step.c.saga_id.type)
    guard = phase_under_share_lock(key).subquery("guard")
    source = select(*given.values()).select_from(guard).where(guard.c.phase == Phase.FORWARD.value)
    make: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    insert = make(saga_step).from_select(list(given), source)
    # DO NOTHING would wait for the other driver and then not see its row; DO UPDATE reads it as committed.
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
    command: StepCommand,
    operation: Operation[..., object],
    attempt: int,
    state: StepState,
    *,
    error: str | None = None,
    idempotency_key: str | None = None,
) -> StepReply | Attempting | None:
    """Insert the step's row, or answer with what is there. None: the row is ours."""
    if command.opening is not None:
        begins = state is not StepState.REFUSED
        elsewhere = await begin_saga(connection, command.opening, catalog, begins=begins)
        if elsewhere is not None:
            return elsewhere
    arguments = canonical(command.arguments)
    described = digest(f"{operation.name}{arguments}")
    token = uuid4()
    attempting = state is StepState.ATTEMPTING
    values: dict[str, Any] = {
        "saga_id": command.saga.id,
        "number": command.number,
        "kind": operation.kind,
        "operation": operation.name,
        "database": operation.database,
        "arguments": arguments,
        "digest": described,
        "irreversible": operation.reversal is Reversal.IRREVERSIBLE,
        "attempt_token": token,
        "state": state.value,
        "error": error,
        "attempts": attempt,
        "idempotency_key": idempotency_key,
    }
    statement = _claiming(connection.dialect.name, attempting=attempting)
    met = (await statement.execute(connection, {_given(name): value for name, value in values.items()})).first()
    if met is None:
        return await _why_shut(connection, command.saga)
    if met.attempt_token == token:
        return None
    if met.digest != described and not _same_call(met, operation, command.arguments):
        return Diverged(
            number=command.number,
            recorded=text_of(met.operation, json.loads(met.arguments)),
            given=text_of(operation.name, command.arguments),
        )
    if met.state != StepState.ATTEMPTING.value:
        return recorded_reply(command.number, operation.name, met)
    if met.database != operation.database:
        # It may have been done there already, where the effect and its record are one.
        return Diverged(
            number=command.number,
            recorded=f"{met.operation} in database {met.database}",
            given=f"{operation.name} in database {operation.database}",
        )
    if operation.kind == "external" or operation.database != HOME:
        return Attempting(met.attempted_at)
    # Past the pivot, and shown as stuck: written down for a person to skip, and ours to do.
    taken: dict[str, Any] = {"state": state.value, "error": error, "attempts": attempt, "done_at": clock.now()}
    taken |= {"kind": operation.kind, "irreversible": operation.reversal is Reversal.IRREVERSIBLE}
    await connection.execute(
        update(saga_step)
        .where(saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number)
        .values(taken)
    )
    return None


def recorded_reply(number: int, operation: str, met: Any) -> StepReply:
    """What a step's row says, as an answer."""
    match StepState(met.state):
        case StepState.DONE:
            return StepDone(
                number=number, operation=operation, result=None if met.result is None else json.loads(met.result)
            )
        case StepState.SKIPPED:
            # Undone sagas do not get here: only a step past the pivot is skipped while its saga goes forward.
            return StepDone(number=number, operation=operation, result=None)
        case StepState.REFUSED:
            refusal = json.loads(met.error)
            said_by = refusal.get("operation", operation)
            return StepRefused(number=number, operation=said_by, code=refusal["code"], message=refusal["message"])
        case _:
            return Decided(phase=Phase.UNDOING)


async def _why_shut(connection: AsyncConnection, ref: SagaRef) -> Decided:
    phase = await connection.scalar(select(saga.c.phase).where(saga.c.id == ref.id))
    if phase is None:
        raise SagaMissing(
            f"saga {ref.orchestrator}/{ref.event_id} has no row here: is this the database that it was begun in?"
        )
    return Decided(phase=Phase(phase))


def _same_call(met: object, operation: Operation[..., object], given: Mapping[str, JsonValue]) -> bool:
    """Whether a recorded call is today's: read through today's types, which may have got a default more."""
    if getattr(met, "operation", None) != operation.name:
        return False
    try:
        known = operation.signature.load_arguments(json.loads(getattr(met, "arguments", "{}")))
        return operation.signature.dump_arguments(known) == dict(given)
    except ValidationError:
        return False
