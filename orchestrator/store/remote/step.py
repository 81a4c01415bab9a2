"""The forward path of a remote step: recorded at home, done in the remote database, its result recorded at home."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import Refused
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import Decided, Diverged, Phase, Resume, StepCommand, StepReply, StepState
from orchestrator.protocol.messages.envelope import canonical
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_step
from orchestrator.store.remote.fence import FENCE, copy_home, home_row, insert_first
from orchestrator.store.saga.atomic import refusal_record
from orchestrator.store.saga.fence import (
    Attempting,
    RefusedPastPivot,
    claim,
    perform,
    recordable,
    recorded_reply,
    transaction_lost,
)
from orchestrator.store.saga.opening import OpenedBefore
from orchestrator.store.saga.step_rows import NewStep, StepAttempt


@dataclass(frozen=True, slots=True)
class _QueryReply:
    """What a query returned or how it was refused, in the columns of a remote row."""

    state: str
    result: str | None
    error: str | None
    attempts: int


async def run_remote_step(
    databases: Databases, catalog: Catalog, command: StepCommand, *, attempt: int = 1
) -> StepReply:
    """Attempt a remote step in three transactions: at home, in the remote database, at home.

    Raises:
        DatabaseMissing: the remote database's address is not known here; nothing was done.
        SagaMissing: the saga's row is not in the home database.
        Exception: whatever the operation raised; its remote transaction was rolled back, and it may be retried.
    """
    step = StepAttempt.of(command, catalog, attempt)
    operation = step.operation
    remote = databases.named(operation.database)

    async def claim_it(connection: AsyncConnection) -> StepReply | Attempting | None:
        return await claim(connection, catalog, step, StepState.ATTEMPTING)

    try:
        recorded = await databases.home.in_transaction(claim_it)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)
    if recorded is not None and not isinstance(recorded, Attempting):
        return recorded
    is_query = operation.reversal is Reversal.NOTHING
    try:
        result = await (_run_query if is_query else _run_operation)(remote, step)
    except Refused as refusal:
        if command.past_pivot:
            raise RefusedPastPivot(f"{refusal.code}: {refusal.message}") from refusal
        error = canonical(refusal_record(refusal))
        if is_query:
            result = _QueryReply(StepState.REFUSED.value, None, error, attempt)
        else:
            result = await _record_refusal(remote, step, error)
    if isinstance(result, Diverged):
        return result
    if await copy_home(databases.home, command.saga.id, command.number, result):
        return recorded_reply(command.number, operation.name, result)
    # Another driver was faster, so the row at home has the reply.
    row = await home_row(databases.home, command.saga.id, command.number)
    return Decided(phase=Phase.UNDOING) if row is None else recorded_reply(command.number, operation.name, row)


async def _run_operation(remote: Database, step: StepAttempt) -> Any:
    command, operation = step.command, step.operation

    async def attempt_it(connection: AsyncConnection) -> Any:
        row, is_inserted = await insert_first(connection, NewStep.of(step), StepState.DONE, attempts=step.number)
        if not is_inserted:
            return _row_if_same_step(step, row)
        _, recorded = recordable(operation, await perform(connection, step))
        # As in `fence`: a transaction that a swallowed error has ended must not look like one that committed.
        written = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == command.saga.id,
                saga_step.c.number == command.number,
                saga_step.c.state == StepState.DONE.value,
            )
            .values(result=recorded, done_at=clock.now())
            .returning(*FENCE)
        )
        if (done := written.first()) is None:
            raise transaction_lost(operation.name)
        return done

    return await remote.in_transaction(attempt_it)


async def _record_refusal(remote: Database, step: StepAttempt, error: str) -> Any:
    async def record_it(connection: AsyncConnection) -> Any:
        new = NewStep.of(step)
        row, is_inserted = await insert_first(connection, new, StepState.REFUSED, attempts=step.number, error=error)
        # The refused transaction was rolled back. If another driver has done the step since, its record is returned.
        return row if is_inserted else _row_if_same_step(step, row)

    return await remote.in_transaction(record_it)


async def _run_query(remote: Database, step: StepAttempt) -> _QueryReply:
    async def ask_it(connection: AsyncConnection) -> _QueryReply:
        _, recorded = recordable(step.operation, await perform(connection, step))
        # Fails if the query swallowed a database error, because its result then depends on statements that failed.
        await connection.execute(select(1))
        return _QueryReply(StepState.DONE.value, recorded, None, step.number)

    return await remote.in_transaction(ask_it)


def _row_if_same_step(step: StepAttempt, row: Any) -> Any:
    """Return the remote row if it records the same operation.

    The row at home was this step's, so a remote row of another operation comes from another home database, or from one
    that was lost.
    """
    command, operation = step.command, step.operation
    if row.operation == operation.name:
        return row
    return Diverged(
        number=command.number,
        recorded=f"{row.operation}({row.arguments}) in database {operation.database}",
        requested=f"{operation.name}({canonical(command.arguments)})",
    )
