"""Steps of several sagas in one transaction, where nothing stands in the way of any of them.

The operations run first, and all their fence rows are inserted last, in one statement behind each saga's guard: the
optimistic order of Kung and Robinson (On Optimistic Methods for Concurrency Control, 1981). If a row is there already,
a phase has turned or an operation raises, then nothing of any of them stands, and each is to be attempted by itself.
Who meets these rows later waits for the commit as for any other attempt's.

No row written first tells whether the transaction is still the one that the operations ran in: SQLAlchemy may have
rolled back after a flush whose error an operation swallowed. A setting that ends with the transaction tells it.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextvars import Context, copy_context
from typing import Any
from uuid import uuid4

from sqlalchemy import Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.operation import HOME, Operation, Reversal
from orchestrator.protocol.commands import Phase, StepCommand, StepDone, StepReply, StepState
from orchestrator.protocol.envelope import canonical, digest
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.driver_text import DriverText
from orchestrator.store.core.misuse_guard import untouched
from orchestrator.store.outbox import at_home
from orchestrator.store.saga.fence import perform, recordable

_log = logging.getLogger(__name__)

_BEGIN = DriverText(
    text(
        "SELECT set_config('lock_timeout', '150ms', true), set_config('orchestrator.together', :token, true)"
    ).bindparams(bindparam("token", type_=Text()))
)
"""Together they hold more locks for longer than one does: who would wait long for another's goes alone."""

_GIVEN = {
    "saga_id": "uuid",
    "number": "integer",
    "kind": "text",
    "operation": "text",
    "database": "text",
    "arguments": "text",
    "digest": "text",
    "irreversible": "boolean",
    "attempt_token": "uuid",
    "state": "text",
    "result": "text",
    "attempts": "integer",
}
_NOW = clock.NOW_AS_TEXT["postgresql"]
_INSERT = DriverText(
    text(
        f"INSERT INTO saga_step ({', '.join(_GIVEN)}, created_at, done_at) "  # noqa: S608
        f"SELECT {', '.join(f'given.{name}' for name in _GIVEN)}, {_NOW}, {_NOW} "
        f"FROM json_to_recordset(CAST(:rows AS json)) "
        f"AS given({', '.join(f'{name} {kind}' for name, kind in _GIVEN.items())}) "
        "CROSS JOIN LATERAL (SELECT phase FROM saga WHERE saga.id = given.saga_id FOR SHARE) AS guard "
        f"WHERE guard.phase = '{Phase.FORWARD.value}' "
        "AND current_setting('orchestrator.together', true) = :token ON CONFLICT DO NOTHING"
    ).bindparams(bindparam("rows", type_=Text()), bindparam("token", type_=Text()))
)


class _Apart(Exception):
    """One of them was done before, may not be done any more, or left the others something that is not theirs."""


def may_go_together(database: Database, catalog: Catalog, command: StepCommand) -> bool:
    """Whether a step is one transaction at home, of a saga that is open. On SQLite, where writers queue, none goes."""
    if database.dialect != "postgresql" or command.opening is not None:
        return False
    try:
        operation = catalog.called(command.operation, command.arguments)
    except OrchestratorError:
        return False  # by itself it is told what is wrong
    return operation.database == HOME and operation.kind != "external"


async def run_steps_together(
    database: Database, catalog: Catalog, commands: Sequence[StepCommand], contexts: Sequence[Context] | None = None
) -> list[StepReply] | None:
    """Attempt steps of different sagas together, each for the first time.

    Args:
        database: the home database.
        catalog: knows the operations.
        commands: for which `may_go_together` holds.
        contexts: in which the operations run, each its own saga's.

    Returns:
        What each answered; None: nothing was done, or it is not known whether. Attempt each by itself.
    """
    given = list(zip(commands, contexts or [copy_context() for _ in commands], strict=True))

    async def attempt(connection: AsyncConnection) -> list[StepReply]:
        token = str(uuid4())
        await _BEGIN.execute(connection, {"token": token})
        rows: list[dict[str, Any]] = []
        replies: list[StepReply] = []
        for command, context in given:
            operation = catalog.called(command.operation, command.arguments)
            performing = _perform(database, connection, operation, command)
            result, recorded = recordable(operation, await asyncio.create_task(performing, context=context))
            rows.append(_row(command, operation, recorded))
            replies.append(StepDone(number=command.number, operation=operation.name, result=result))
        # In one order, whatever theirs is: those of another group, or that end together, are locked in it, too.
        rows.sort(key=lambda row: str(row["saga_id"]))
        written = await _INSERT.execute(connection, {"rows": json.dumps(rows), "token": token})
        if written.rowcount != len(commands):
            raise _Apart
        return replies

    try:
        return await database.in_transaction(attempt, tries=1)
    except Exception as fault:  # whosever it is: by itself each meets what is its own
        _log.debug("%d steps do not go together: %s", len(commands), type(fault).__name__)
        return None


async def _perform(
    database: Database, connection: AsyncConnection, operation: Operation[..., object], command: StepCommand
) -> object:
    """Run an operation that leaves the transaction as it was, but for its effect: the next one is another saga's."""
    with at_home(database), untouched(connection) as is_untouched:
        returned = await perform(connection, operation, command)
    if not is_untouched():
        raise _Apart
    return returned


def _row(command: StepCommand, operation: Operation[..., object], recorded: str | None) -> dict[str, Any]:
    arguments = canonical(command.arguments)
    return {
        "saga_id": str(command.saga.id),
        "number": command.number,
        "kind": operation.kind,
        "operation": operation.name,
        "database": operation.database,
        "arguments": arguments,
        "digest": digest(f"{operation.name}{arguments}"),
        "irreversible": operation.reversal is Reversal.IRREVERSIBLE,
        "attempt_token": str(uuid4()),
        "state": StepState.DONE.value,
        "result": recorded,
        "attempts": 1,
    }
