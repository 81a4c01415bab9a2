"""Group commit: steps of several sagas share one transaction, as long as all of them succeed.

The operations run first. All their fence rows are inserted last, in one statement that checks each saga's guard: the
optimistic order of Kung and Robinson (On Optimistic Methods for Concurrency Control, 1981). If a row already exists, a
phase has changed or an operation raises, then the whole transaction is rolled back and each step is attempted in its
own transaction. A driver that finds these rows later waits for the commit, as it does for any other attempt.

No row is written first, so no row shows whether the transaction is still the one that the operations ran in: SQLAlchemy
may have rolled back after a failed flush whose error an operation swallowed. A setting that is local to the transaction
shows it.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextvars import Context, copy_context
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Text, Uuid, bindparam, literal_column, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.operation import HOME
from orchestrator.protocol.commands import Phase, StepCommand, StepDone, StepReply, StepState
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.driver_text import DriverText
from orchestrator.store.core.misuse_guard import untouched
from orchestrator.store.outbox import at_home
from orchestrator.store.saga.fence import perform, phase_under_share_lock, recordable
from orchestrator.store.saga.step_rows import NewStep, StepAttempt

_log = logging.getLogger(__name__)

_BEGIN = DriverText(
    text(
        "SELECT set_config('lock_timeout', '150ms', true), set_config('orchestrator.group_commit', :token, true)"
    ).bindparams(bindparam("token", type_=Text()))
)
"""A group holds more locks for longer than a single step, so it gives up early if it has to wait for a lock."""

_TYPES = {
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
# The guard of each step: the same as in `fence`, for all rows of the statement.
_GUARD = phase_under_share_lock(literal_column("given.saga_id", Uuid())).compile(
    dialect=make_url("postgresql+asyncpg://").get_dialect()()
)
_INSERT = DriverText(
    text(
        f"INSERT INTO saga_step ({', '.join(_TYPES)}, created_at, done_at) "  # noqa: S608
        f"SELECT {', '.join(f'given.{name}' for name in _TYPES)}, {_NOW}, {_NOW} "
        f"FROM json_to_recordset(CAST(:rows AS json)) "
        f"AS given({', '.join(f'{name} {kind}' for name, kind in _TYPES.items())}) "
        f"CROSS JOIN LATERAL ({_GUARD}) AS guard "
        f"WHERE guard.phase = '{Phase.FORWARD.value}' "
        "AND current_setting('orchestrator.group_commit', true) = :token ON CONFLICT DO NOTHING"
    ).bindparams(bindparam("rows", type_=Text()), bindparam("token", type_=Text()))
)


class _GroupRolledBack(Exception):
    """A step of the group was already recorded, is no longer allowed, or has changed the session of the other steps."""


def can_join_group(database: Database, catalog: Catalog, command: StepCommand) -> bool:
    """Whether a step of an open saga is one transaction in the home database; never on SQLite, where writers queue."""
    if database.dialect != "postgresql" or command.opening is not None:
        return False
    try:
        operation = catalog.called(command.operation, command.arguments)
    except OrchestratorError:
        return False  # attempted in its own transaction, the step reports what is wrong
    return operation.database == HOME and operation.kind != "external"


async def run_step_group(
    database: Database, catalog: Catalog, commands: Sequence[StepCommand], contexts: Sequence[Context] | None = None
) -> list[StepReply] | None:
    """Attempt steps of different sagas in one transaction, each for the first time.

    Args:
        database: the home database.
        catalog: the application's operations.
        commands: the steps, each of which satisfies `can_join_group`.
        contexts: the context in which each operation runs, one per saga.

    Returns:
        The replies; None if nothing was committed or the result is unknown, so that each step must be attempted on its
        own.
    """
    steps = list(zip(commands, contexts or [copy_context() for _ in commands], strict=True))

    async def attempt(connection: AsyncConnection) -> list[StepReply]:
        token = str(uuid4())
        await _BEGIN.execute(connection, {"token": token})
        rows: list[dict[str, Any]] = []
        replies: list[StepReply] = []
        for command, context in steps:
            step = StepAttempt.of(command, catalog)
            performing = _perform(database, connection, step)
            result, recorded = recordable(step.operation, await asyncio.create_task(performing, context=context))
            rows.append(_row(step, recorded))
            replies.append(StepDone(number=command.number, operation=step.operation.name, result=result))
        # Sort by saga id: other groups, and sagas that finish together, lock rows in that order too, so none deadlock.
        rows.sort(key=lambda row: str(row["saga_id"]))
        written = await _INSERT.execute(connection, {"rows": json.dumps(rows), "token": token})
        if written.rowcount != len(commands):
            raise _GroupRolledBack
        return replies

    try:
        return await database.in_transaction(attempt, tries=1)
    except Exception as fault:  # from any of the steps; when each is attempted on its own, only that step fails
        _log.debug("A group of %d steps was rolled back because of a %s.", len(commands), type(fault).__name__)
        return None


async def _perform(database: Database, connection: AsyncConnection, step: StepAttempt) -> object:
    """Run an operation and check that it leaves session and transaction as they were, for the next saga's operation."""
    with at_home(database), untouched(connection) as is_untouched:
        returned = await perform(connection, step)
    if not is_untouched():
        raise _GroupRolledBack
    return returned


def _row(step: StepAttempt, recorded: str | None) -> dict[str, Any]:
    values = NewStep.of(step).values(StepState.DONE) | {"result": recorded, "attempts": step.number}
    return {name: str(value) if isinstance(value, UUID) else value for name, value in values.items()}
