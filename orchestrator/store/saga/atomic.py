"""The calls of an atomic step: run in order in the step's transaction, and undone in reverse in the undo's transaction.

Exactly-once is decided elsewhere: an atomic step has the same fence and the same compare-and-set undo as any step.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import ATOMIC, AtomicOperation, calls_in
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError, Refused
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import StepCommand, StepRefused, UndoCommand
from orchestrator.protocol.containment import contained
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.saga.step_transaction import transaction_of


class RefusedWithin(Refused):
    """One of an atomic step's operations refused."""

    def __init__(self, refusal: Refused, operation: str) -> None:
        super().__init__(refusal.code, refusal.message)
        self.details = refusal.details
        self.operation = operation


async def run_calls(connection: AsyncConnection, operation: AtomicOperation, command: StepCommand) -> list[Any]:
    """Run each call in order, with its own `Transaction` on the step's connection.

    Returns:
        The result of each call.

    Raises:
        RefusedWithin: one of the operations refused.
        Exception: whatever one of the operations raised.
    """
    arguments: list[dict[str, Any]] = operation.signature.load_arguments(command.arguments)["calls"]
    returned: list[Any] = []
    for position, (called, call_arguments) in enumerate(zip(operation.operations, arguments, strict=True), start=1):
        tx = transaction_of(connection, command, call=position)
        try:
            async with guarded(connection, "query" if called.reversal is Reversal.NOTHING else "operation"):
                with contained(called.name):
                    returned.append(await called.body(tx, **call_arguments))
                    await tx.write_out()
        except Refused as refusal:
            raise RefusedWithin(refusal, called.name) from refusal
    return returned


async def undo_calls(
    connection: AsyncConnection,
    operation: AtomicOperation,
    command: UndoCommand,
    arguments: Mapping[str, JsonValue],
    results: JsonValue,
) -> None:
    """Run the compensations of the calls in reverse order; queries have none.

    Raises:
        Exception: whatever a compensation raised; then the whole step remains done.
    """
    if not isinstance(results, list):
        raise OrchestratorError(
            f"step {command.number} cannot be undone, because its recorded results are not a list; "
            "undo its effect by hand and skip the step"
        )
    done = zip(operation.operations, calls_in(arguments), results, strict=True)
    for position, (called, (_, call_arguments), result) in reversed(list(enumerate(done, start=1))):
        if called.reversal is Reversal.NOTHING:
            continue
        tx = transaction_of(connection, command, call=position)
        async with guarded(connection, "operation"):
            with contained(f"the compensation of {called.name}"):
                await called.compensate(tx, call_arguments, result)
                await tx.flush()


def refusal_record(refusal: Refused) -> dict[str, JsonValue]:
    """Return what a refused step's row records; for an atomic step this includes which operation refused."""
    record: dict[str, JsonValue] = {"code": refusal.code, "message": refusal.message}
    if refusal.details is not None:
        record["details"] = dict(refusal.details)
    if isinstance(refusal, RefusedWithin):
        record["operation"] = refusal.operation
    return record


def refused_reply(number: int, operation: str, record: Mapping[str, Any]) -> StepRefused:
    """Return the reply for the refusal that a step's row records."""
    return StepRefused(
        number=number,
        operation=record.get("operation", operation),
        code=record["code"],
        message=record["message"],
        details=record.get("details"),
    )


def undone_calls(catalog: Catalog, operation: str, arguments: str) -> Sequence[str]:
    """Return the operations that undoing a step has undone, in that order; queries of an atomic step are left out."""
    if operation != ATOMIC.name:
        return (operation,)
    return [name for name, _ in reversed(calls_in(json.loads(arguments))) if catalog.compensation_of(name)]
