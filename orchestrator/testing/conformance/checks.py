"""Checks after each cell: the saga has one outcome and the state that belongs to it, and nothing is left open."""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from orchestrator.protocol.commands import Outcome, Phase, StepState
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_lock, saga_outbox, saga_step
from orchestrator.testing.conformance.reference import Reference, State

_ALLOWED = {
    Phase.COMPLETED: {StepState.DONE, StepState.REFUSED, StepState.SKIPPED},
    Phase.FAILED: {StepState.DONE, StepState.REFUSED, StepState.BARRED, StepState.UNDONE, StepState.SKIPPED},
    Phase.CANCELLED: {StepState.DONE, StepState.REFUSED, StepState.BARRED, StepState.UNDONE, StepState.SKIPPED},
}
_RELEASED_WITHIN = 5.0
_MAX_DIFFERENCES = 8


async def one_outcome(database: Database, saga_id: UUID, outcomes: Sequence[Outcome]) -> tuple[list[str], Phase | None]:
    """Check a saga's row, steps, event in the outbox and drivers' outcomes; return the problems and its phase."""
    async with database.reading() as connection:
        row = (await connection.execute(select(saga).where(saga.c.id == saga_id))).one_or_none()
        steps = (
            await connection.execute(select(saga_step).where(saga_step.c.saga_id == saga_id).order_by("number"))
        ).all()
        # An outcome has no target, unlike an event that a step added.
        outcomes_of = (saga_outbox.c.saga_id == saga_id) & saga_outbox.c.target.is_(None)
        sent = (await connection.execute(select(saga_outbox).where(outcomes_of))).all()
    if row is None:
        return ["the saga has no row"], None
    phase = Phase(row.phase)
    if not phase.is_final:
        stuck = f", stuck: {row.stuck_error}" if row.stuck_error else ""
        return [f"the saga is still open: {phase}{stuck}"], phase
    wrong: list[str] = []
    outcome = Outcome.model_validate_json(row.outcome)
    if row.stuck_step is not None:
        wrong.append(f"the saga has ended but is still marked as stuck: {row.stuck_error}")
    wrong += [
        f"step {step.number}, {step.operation}, is {step.state} in a saga that is {phase}"
        for step in steps
        if StepState(step.state) not in _ALLOWED[phase]
        or (phase is not Phase.COMPLETED and _has_effect(step) and step.state == StepState.DONE)
    ]
    if len(sent) != 1:
        wrong.append(f"the outbox has {len(sent)} outcome events of the saga, but must have exactly one")
    wrong += [f"the outbox has another outcome: {row.envelope}" for row in sent if _differ(row.envelope, outcome)]
    wrong += [
        f"a driver returned another outcome: {other.phase}, {other.error_code}"
        for other in outcomes
        if other != outcome
    ]
    return wrong, phase


async def nothing_open(database: Database, *, within: float = _RELEASED_WITHIN) -> list[str]:
    """Find open transactions, held locks and sagas' lock tickets in a database.

    Args:
        database: the database to search.
        within: how many seconds the server may take to notice that a process has died.
    """
    async with database.reading() as connection:
        tickets = (await connection.execute(select(saga_lock).where(saga_lock.c.ticket > 0))).all()
    wrong = [f"the lock {ticket.key} is still held" for ticket in tickets]
    if database.dialect == "sqlite":
        return [*wrong, *await asyncio.to_thread(_sqlite_is_locked, database.url.database or "")]
    held: list[str] = []
    try:
        async with asyncio.timeout(within):
            while held := await _postgresql_holds(database):  # noqa: ASYNC110 - the condition is in a database
                await asyncio.sleep(0.01)
    except TimeoutError:
        pass
    return wrong + held


def state_of_phase(reference: Reference, phase: Phase) -> tuple[str, State]:
    """The state that the application must be in after a phase, with its description."""
    if phase is Phase.COMPLETED and reference.outcome.phase is Phase.COMPLETED:
        return "as after one success", reference.after
    if phase is reference.outcome.phase:
        return "as after the same run without a fault", reference.after
    return "as before", reference.before


def describe_differences(expected: State, actual: State) -> list[str]:
    """Describe how two states differ; after a few differences, only count the rest."""
    differences = expected.differences(actual)
    more = len(differences) - _MAX_DIFFERENCES
    return differences[:_MAX_DIFFERENCES] + ([f"and {more} more differences"] if more > 0 else [])


def _has_effect(step: Any) -> bool:
    return step.kind in ("operation", "atomic", "external") and not step.irreversible


def _differ(envelope: str, outcome: Outcome) -> bool:
    return bool(json.loads(envelope) != outcome.event)


def _sqlite_is_locked(file: str) -> list[str]:
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as fault:
            return [f"a writer still holds the file: {fault}"]
    return []


async def _postgresql_holds(database: Database) -> list[str]:
    async with database.reading() as connection:
        transactions = await connection.execute(
            text(
                "SELECT state, left(query, 200) AS query FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            )
        )
        held = [f"a transaction is still open, {row.state}: {row.query}" for row in transactions]
        locks = await connection.execute(
            text(
                "SELECT DISTINCT mode, locktype, coalesce(relation::regclass::text, '') AS relation FROM pg_locks "
                "WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND pid <> pg_backend_pid() AND pid IN "
                "(SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend')"
            )
        )
        return held + [f"a lock is still held: {row.mode} on {row.locktype} {row.relation}" for row in locks]
