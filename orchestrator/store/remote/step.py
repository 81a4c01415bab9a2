"""A step in another database on its way forward: written down at home, done there, recorded at home."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import Refused
from orchestrator.operation import Operation, Reversal
from orchestrator.protocol.commands import Decided, Diverged, Phase, Resume, StepCommand, StepReply, StepState
from orchestrator.protocol.envelope import canonical, digest
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_step
from orchestrator.store.remote.fence import FENCE, copy_home, home_row, insert_first
from orchestrator.store.saga.atomic import refusal_record
from orchestrator.store.saga.fence import (
    Attempting,
    RefusedPastPivot,
    TransactionLost,
    claim,
    perform,
    recordable,
    recorded_reply,
)
from orchestrator.store.saga.opening import OpenedBefore

AnyOperation = Operation[..., Any]


@dataclass(frozen=True, slots=True)
class _Fence:
    """What a step's row there is made of."""

    saga_id: UUID
    number: int
    kind: str
    operation: str
    database: str
    arguments: str
    digest: str
    irreversible: bool

    @classmethod
    def of(cls, command: StepCommand, operation: AnyOperation) -> "_Fence":
        arguments = canonical(command.arguments)
        return cls(
            saga_id=command.saga.id,
            number=command.number,
            kind=operation.kind,
            operation=operation.name,
            database=operation.database,
            arguments=arguments,
            digest=digest(f"{operation.name}{arguments}"),
            irreversible=operation.reversal is Reversal.IRREVERSIBLE,
        )


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a query said, as a row there would say it."""

    state: str
    result: str | None
    error: str | None
    attempts: int


async def run_other_step(
    databases: Databases, catalog: Catalog, command: StepCommand, *, attempt: int = 1
) -> StepReply:
    """Attempt a step in another database. Three transactions: at home, there, at home.

    Raises:
        DatabaseMissing: the other database's address is not known here; nothing was done.
        SagaMissing: the saga's row is gone.
        Exception: what the operation raised; nothing stands there, and it may be tried again.
    """
    operation = catalog.called(command.operation, command.arguments)
    there = databases.named(operation.database)

    async def claim_it(connection: AsyncConnection) -> StepReply | Attempting | None:
        return await claim(connection, catalog, command, operation, attempt, StepState.ATTEMPTING)

    try:
        met = await databases.home.in_transaction(claim_it)
    except OpenedBefore as before:
        return Resume(envelope=before.envelope)
    if met is not None and not isinstance(met, Attempting):
        return met
    is_query = operation.reversal is Reversal.NOTHING
    try:
        done = await (_ask if is_query else _do)(there, command, operation, attempt)
    except Refused as refusal:
        if command.past_pivot:
            raise RefusedPastPivot(f"{refusal.code}: {refusal.message}") from refusal
        error = canonical(refusal_record(refusal))
        if is_query:
            done = _Answered(StepState.REFUSED.value, None, error, attempt)
        else:
            done = await _refuse(there, command, operation, attempt, error)
    if isinstance(done, Diverged):
        return done
    if await copy_home(databases.home, command.saga.id, command.number, done):
        return recorded_reply(command.number, operation.name, done)
    # Another driver was faster: what stands at home is the answer.
    row = await home_row(databases.home, command.saga.id, command.number)
    return Decided(phase=Phase.UNDOING) if row is None else recorded_reply(command.number, operation.name, row)


async def _do(there: Database, command: StepCommand, operation: AnyOperation, attempt: int) -> Any:
    async def attempt_it(connection: AsyncConnection) -> Any:
        row, is_ours = await insert_first(connection, _Fence.of(command, operation), StepState.DONE, attempts=attempt)
        if not is_ours:
            return _met(command, operation, row)
        returned = await perform(connection, operation, command)
        _, recorded = recordable(operation, returned)
        # As in `fence`: a transaction that a swallowed error has ended must not pass for one that committed.
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
        return written.first() or _lost(operation)

    return await there.in_transaction(attempt_it)


async def _refuse(there: Database, command: StepCommand, operation: AnyOperation, attempt: int, error: str) -> Any:
    async def record_it(connection: AsyncConnection) -> Any:
        row, is_ours = await insert_first(
            connection, _Fence.of(command, operation), StepState.REFUSED, attempts=attempt, error=error
        )
        # The refused transaction is gone, effects and all. Another driver may have done the step since: it was first.
        return row if is_ours else _met(command, operation, row)

    return await there.in_transaction(record_it)


async def _ask(there: Database, command: StepCommand, operation: AnyOperation, attempt: int) -> _Answered:
    async def ask_it(connection: AsyncConnection) -> _Answered:
        returned = await perform(connection, operation, command)
        _, recorded = recordable(operation, returned)
        # After an error that the query swallowed, PostgreSQL answers nothing more: what it made of that is no answer.
        await connection.execute(select(1))
        return _Answered(StepState.DONE.value, recorded, None, attempt)

    return await there.in_transaction(ask_it)


def _met(command: StepCommand, operation: AnyOperation, row: Any) -> Any:
    """The row that stands there. At home it was this step's, so another's is of a home that is another's or is lost."""
    if row.operation == operation.name:
        return row
    return Diverged(
        number=command.number,
        recorded=f"{row.operation}({row.arguments}) in database {operation.database}",
        given=f"{operation.name}({canonical(command.arguments)})",
    )


def _lost(operation: AnyOperation) -> Any:
    raise TransactionLost(f"the transaction of {operation.name} was ended before the operation was")
