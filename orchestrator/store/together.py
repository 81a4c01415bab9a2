"""Steps of several sagas in one transaction, where nothing stands in the way of any of them.

The operations run first, and all their fence rows are inserted last, in one statement behind each saga's guard: the
optimistic order of Kung and Robinson (On Optimistic Methods for Concurrency Control, 1981). If a row is there already,
a phase has turned or an operation raises, then nothing of any of them stands, and each is to be attempted by itself.
Who meets these rows later waits for the commit as for any other attempt's.
"""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.catalog import Catalog
from orchestrator.drive.messages import Phase, StepCommand, StepDone, StepReply, StepState
from orchestrator.envelope import canonical, digest
from orchestrator.operation import HOME, Operation, Reversal
from orchestrator.store.database import Database
from orchestrator.store.driver_text import DriverText
from orchestrator.store.fence import perform, recordable

_log = logging.getLogger(__name__)

_SHORT_WAITS = DriverText(text("SET LOCAL lock_timeout = '150ms'"))
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
    "created_at": "timestamptz",
    "done_at": "timestamptz",
}
_INSERT = DriverText(
    text(
        f"INSERT INTO saga_step ({', '.join(_GIVEN)}) "  # noqa: S608
        f"SELECT {', '.join(f'given.{name}' for name in _GIVEN)} "
        f"FROM json_to_recordset(CAST(:rows AS json)) "
        f"AS given({', '.join(f'{name} {kind}' for name, kind in _GIVEN.items())}) "
        "CROSS JOIN LATERAL (SELECT phase FROM saga WHERE saga.id = given.saga_id FOR SHARE) AS guard "
        f"WHERE guard.phase = '{Phase.FORWARD.value}' ORDER BY given.saga_id ON CONFLICT DO NOTHING"
    ).bindparams(bindparam("rows", type_=Text()))
)


class _Apart(Exception):
    """One of them was done before, or may not be done any more."""


def may_go_together(database: Database, catalog: Catalog, command: StepCommand) -> bool:
    """Whether a step is one transaction at home, of a saga that is open.

    On SQLite none goes together: there a transaction may be lost unseen, which only a row written first shows.
    """
    if database.dialect != "postgresql" or command.opening is not None:
        return False
    operation = catalog.called(command.operation, command.arguments)
    return operation.database == HOME and operation.kind != "external"


async def run_steps_together(
    database: Database, catalog: Catalog, commands: Sequence[StepCommand]
) -> list[StepReply] | None:
    """Attempt steps of different sagas together, each for the first time.

    Args:
        database: the home database.
        catalog: knows the operations.
        commands: for which `may_go_together` holds.

    Returns:
        What each answered; None: nothing was done, or it is not known whether. Attempt each by itself.
    """

    async def attempt(connection: AsyncConnection) -> list[StepReply]:
        await _SHORT_WAITS.execute(connection, {})
        rows: list[dict[str, Any]] = []
        replies: list[StepReply] = []
        for command in commands:
            operation = catalog.called(command.operation, command.arguments)
            result, recorded = recordable(operation, await perform(connection, operation, command))
            rows.append(_row(command, operation, recorded))
            replies.append(StepDone(number=command.number, operation=operation.name, result=result))
        written = await _INSERT.execute(connection, {"rows": json.dumps(rows)})
        if written.rowcount != len(commands):
            raise _Apart
        return replies

    try:
        return await database.in_transaction(attempt, tries=1)
    except Exception as fault:  # whosever it is: by itself each meets what is its own
        _log.debug("%d steps do not go together: %s", len(commands), type(fault).__name__)
        return None


def _row(command: StepCommand, operation: Operation[..., object], recorded: str | None) -> dict[str, Any]:
    arguments = canonical(command.arguments)
    now = datetime.now(UTC).isoformat()
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
        "created_at": now,
        "done_at": now,
    }
