"""Builds the `Transaction` that an operation or a compensation gets."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.commands import StepCommand, UndoCommand
from orchestrator.transaction import Transaction


def transaction_of(
    connection: AsyncConnection, command: StepCommand | UndoCommand, *, call: int | None = None
) -> Transaction:
    """Return the transaction of a step or of its undo.

    Args:
        connection: in the database transaction that the engine commits.
        command: what the driver asks for. An undo uses the negative number of its step, so that it generates different
            ids.
        call: the position of the call in an atomic step.
    """
    return Transaction(
        connection,
        saga=command.saga.id,
        step=-command.number if isinstance(command, UndoCommand) else command.number,
        event_id=command.saga.event_id,
        event_time=datetime.fromisoformat(command.event_time),
        call=call,
    )
