"""The calls of an atomic step: one after the other in the step's own transaction, and back again in the undo's.

Nothing of exactly-once is here: the fence and the compare-and-set of the undo are those of any step.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import ATOMIC, AtomicOperation, calls_in
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError, Refused
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import SagaRef, StepCommand, UndoCommand
from orchestrator.protocol.containment import contained
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.transaction import Transaction


class RefusedWithin(Refused):
    """One of an atomic step's operations said no."""

    def __init__(self, refusal: Refused, operation: str) -> None:
        super().__init__(refusal.code, refusal.message)
        self.operation = operation


async def run_calls(connection: AsyncConnection, operation: AtomicOperation, command: StepCommand) -> list[Any]:
    """Run each call, in order, with a `Transaction` of its own on the step's connection.

    Returns:
        What each returned.

    Raises:
        RefusedWithin: one of them said no.
        Exception: what one of them raised.
    """
    arguments: list[dict[str, Any]] = operation.signature.load_arguments(command.arguments)["calls"]
    returned: list[Any] = []
    for place, (one, given) in enumerate(zip(operation.operations, arguments, strict=True), start=1):
        tx = _transaction(connection, command.saga, command.number, place, command.event_time)
        try:
            async with guarded(connection, "query" if one.reversal is Reversal.NOTHING else "operation"):
                with contained(one.name):
                    returned.append(await one.body(tx, **given))
                    await tx.write_out()
        except Refused as refusal:
            raise RefusedWithin(refusal, one.name) from refusal
    return returned


async def undo_calls(
    connection: AsyncConnection,
    operation: AtomicOperation,
    command: UndoCommand,
    arguments: Mapping[str, JsonValue],
    results: JsonValue,
) -> None:
    """Run the compensations of the calls, the last first; queries have none.

    Raises:
        Exception: what a compensation raised: nothing of the step is undone.
    """
    if not isinstance(results, list):
        raise OrchestratorError(f"the results of step {command.number} are no list, so its calls cannot be undone")
    done = zip(operation.operations, calls_in(arguments), results, strict=True)
    for place, (one, (_, given), result) in reversed(list(enumerate(done, start=1))):
        if one.reversal is Reversal.NOTHING:
            continue
        tx = _transaction(connection, command.saga, -command.number, place, command.event_time)
        async with guarded(connection, "operation"):
            with contained(f"the compensation of {one.name}"):
                await one.compensate(tx, given, result)
                await tx.flush()


def refusal_record(refusal: Refused) -> dict[str, str]:
    """What a refused step's row says; of an atomic step also which operation it was."""
    said = {"code": refusal.code, "message": refusal.message}
    return said | {"operation": refusal.operation} if isinstance(refusal, RefusedWithin) else said


def undone_calls(catalog: Catalog, operation: str, arguments: str) -> Sequence[str]:
    """Operations that the undoing of a step took back, in that order: of an atomic one each that has a compensation."""
    if operation != ATOMIC.name:
        return (operation,)
    return [name for name, _ in reversed(calls_in(json.loads(arguments))) if catalog.compensation_of(name)]


def _transaction(connection: AsyncConnection, ref: SagaRef, step: int, call: int, event_time: str) -> Transaction:
    return Transaction(
        connection,
        saga=ref.id,
        step=step,
        event_id=ref.event_id,
        event_time=datetime.fromisoformat(event_time),
        call=call,
    )
