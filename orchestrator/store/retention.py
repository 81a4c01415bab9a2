"""Retention: which data of sagas that ended long ago is deleted, and which is kept forever.

A saga's row is kept. With its orchestrator, event id, content digest and outcome, a late repeat is still recognised;
with its phase, the guard still stops late attempts. The saga's steps at home and its payload are deleted: the event's
fields in the envelope and wherever the outcome repeats them, a refusal's details, and its lock keys. Sent events and
settled dead letters are deleted as well.

The guard cannot be read in a remote database. There a step's row is the only fence, and if it were deleted, an attempt
could run no matter how late it arrives. So the row is kept, but its arguments and results are emptied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, bindparam, delete, false, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.operation import HOME
from orchestrator.protocol.commands import Outcome, Phase, StepState
from orchestrator.protocol.messages.envelope import stripped
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_outbox, saga_step

PURGED_VERSION = 0
"""The version of an outcome whose `triggering` is purged; no contract has it, so no event compares as equal."""
_SAGAS = 50
_BYTES = 8 * 1024 * 1024
"""How many bytes of outcomes are rewritten in one transaction."""
_ROWS = 500
"""How many rows are deleted in one statement."""
_FINAL = tuple(phase.value for phase in Phase if phase.is_final)
_UNDONE = (Phase.FAILED.value, Phase.CANCELLED.value)


@dataclass(frozen=True, slots=True)
class Purge:
    """Counts of what is purged, or would be."""

    sagas: int = 0
    """Number of sagas whose steps and payload are deleted."""
    steps: int = 0
    outbox: int = 0
    """Number of sent events, in all databases."""
    dead_letters: int = 0
    """Number of settled dead letters."""
    held: int = 0
    """Number of sagas kept despite their age, because an external effect may remain or a database is not known here."""

    def __add__(self, other: "Purge") -> "Purge":
        return Purge(
            self.sagas + other.sagas,
            self.steps + other.steps,
            self.outbox + other.outbox,
            self.dead_letters + other.dead_letters,
            self.held + other.held,
        )

    @property
    def rows(self) -> int:
        """How many sagas, events and dead letters there are to purge."""
        return self.sagas + self.outbox + self.dead_letters


_external = saga_step.alias("outside")
# The same condition as `external.undo.orphaned_effects`: recovery has yet to check or undo these effects.
_ORPHANED_EFFECTS = (
    select(func.count())
    .select_from(_external)
    .where(
        _external.c.saga_id == saga.c.id,
        _external.c.kind == "external",
        _external.c.irreversible == false(),
        _external.c.attempted_at.is_not(None),
        or_(
            _external.c.state == StepState.ATTEMPTING.value,
            and_(_external.c.state.in_((StepState.DONE.value, StepState.BARRED.value)), saga.c.phase.in_(_UNDONE)),
            and_(
                _external.c.state == StepState.REFUSED.value,
                _external.c.result.is_not(None),
                _external.c.undone_at.is_(None),
            ),
        ),
    )
    .correlate(saga)
    .scalar_subquery()
)
"""Counts per saga instead of using EXISTS, for which PostgreSQL may build a hash table of all steps of all sagas."""
_EMPTY = (
    update(saga)
    .where(saga.c.id == bindparam("purged"))
    .values(
        envelope=bindparam("stripped"),
        outcome=bindparam("ended"),
        details=None,
        lock_keys=None,
        ordering_key=None,
        purged_at=clock.now(),
    )
)


def _held(databases: Databases) -> Any:
    """Select sagas that are kept despite their age; a database that is not known here may hold a step's payload."""
    known = [name for name, _ in databases]
    unknown_database = (
        select(func.count())
        .select_from(_external)
        .where(_external.c.saga_id == saga.c.id, _external.c.database.not_in(known))
    )
    return or_(_ORPHANED_EFFECTS > 0, unknown_database.correlate(saga).scalar_subquery() > 0)


def _old(before: datetime) -> Any:
    # Repeats the index's own condition, so that the index is used.
    return and_(saga.c.finished_at < before, saga.c.finished_at.is_not(None), saga.c.purged_at.is_(None))


async def purge_some(databases: Databases, *, before: datetime) -> Purge:
    """Purge a batch of everything that ended before a time. Safe to repeat and concurrently.

    Args:
        databases: the home database and the remote ones.
        before: the time, never later than now by the database's clock.

    Returns:
        What was purged; `rows` is 0 once nothing is left.
    """
    candidates = await _candidates(databases, before)
    sagas, steps = await _purge_sagas(databases, candidates) if candidates else (0, 0)
    outbox = 0
    for _, database in databases:
        outbox += await _delete(database, saga_outbox, saga_outbox.c.sent_at, saga_outbox.c.created_at, before)
    settled = saga_dead_letter.c.settled_at
    letters = await _delete(databases.home, saga_dead_letter, settled, settled, before)
    return Purge(sagas=sagas, steps=steps, outbox=outbox, dead_letters=letters)


async def purgeable(databases: Databases, *, before: datetime) -> Purge:
    """Count what would be purged now; nothing is changed."""
    old, held = _old(before), _held(databases)
    outbox = 0
    for _, database in databases:
        async with database.reading() as connection:
            outbox += await _count(
                connection, saga_outbox, saga_outbox.c.created_at < before, saga_outbox.c.sent_at < before
            )
    async with databases.home.reading() as connection:
        return Purge(
            sagas=await _count(connection, saga, old, ~held),
            steps=await _count(connection, saga_step, saga_step.c.saga_id.in_(select(saga.c.id).where(old, ~held))),
            outbox=outbox,
            dead_letters=await _count(connection, saga_dead_letter, saga_dead_letter.c.settled_at < before),
            held=await _count(connection, saga, old, held),
        )


async def database_time(database: Database) -> datetime:
    """Return the earlier of the database's and this machine's time; rows are deleted by their age at that time.

    The times in rows come from the database's clock alone. This machine's clock only protects against a database clock
    that has jumped ahead, because deleted rows cannot be restored.
    """
    return min(await clock.read_clock(database), datetime.now(UTC))


async def _candidates(databases: Databases, before: datetime) -> list[UUID]:
    """Return sagas to purge, in the order in which they ended, as many as one transaction can rewrite."""
    size = func.length(saga.c.outcome) + func.length(saga.c.envelope)
    statement = (
        select(saga.c.id, size.label("size"))
        .where(_old(before), saga.c.phase.in_(_FINAL), ~_held(databases))
        .order_by(saga.c.finished_at)
        .limit(_SAGAS)
    )
    candidates: list[UUID] = []
    room = _BYTES
    async with databases.home.reading() as connection:
        for row in await connection.execute(statement):
            room -= row.size or 0
            if candidates and room < 0:
                break
            candidates.append(row.id)
    return candidates


async def _purge_sagas(databases: Databases, candidates: Sequence[UUID]) -> tuple[int, int]:
    # The remote databases first, because a saga that is marked as purged at home is never purged again.
    await _empty_remote_steps(databases, candidates)

    async def purge(connection: AsyncConnection) -> tuple[int, int]:
        # Ordered by id like all transactions that lock several sagas; locked rows are left for the next time.
        locked = await connection.execute(
            select(saga.c.id, saga.c.envelope, saga.c.outcome)
            .where(saga.c.id.in_(candidates), saga.c.phase.in_(_FINAL), saga.c.purged_at.is_(None), ~_held(databases))
            .order_by(saga.c.id)
            .with_for_update(skip_locked=True)
        )
        rows = locked.all()
        if not rows:
            return 0, 0
        deleted = await connection.execute(delete(saga_step).where(saga_step.c.saga_id.in_([row.id for row in rows])))
        emptied = [
            {"purged": row.id, "stripped": stripped(row.envelope), "ended": _stripped_outcome(row.outcome)}
            for row in rows
        ]
        await connection.execute(_EMPTY, emptied)
        return len(rows), deleted.rowcount

    return await databases.home.in_transaction(purge)


async def _empty_remote_steps(databases: Databases, sagas: Sequence[UUID]) -> None:
    statement = (
        select(saga_step.c.saga_id, saga_step.c.database)
        .where(saga_step.c.saga_id.in_(list(sagas)), saga_step.c.database != HOME)
        .distinct()
    )
    async with databases.home.reading() as connection:
        rows = (await connection.execute(statement)).all()
    emptied = {"arguments": "{}", "result": None, "error": None, "skipped_by": None, "skip_reason": None}
    for name in sorted({row.database for row in rows}):
        ids = [row.saga_id for row in rows if row.database == name]
        async with databases.named(name).transaction() as connection:
            await connection.execute(update(saga_step).where(saga_step.c.saga_id.in_(ids)).values(emptied))


def _stripped_outcome(text: str) -> str:
    outcome = Outcome.model_validate_json(text)
    event = dict(outcome.event)
    data = event.get("data")
    if outcome.phase is not Phase.COMPLETED and isinstance(data, dict):
        kept = {name: value for name, value in data.items() if name != "details"}
        event["data"] = {**kept, "event": {}}
    emptied = {"triggering": {}, "triggering_version": PURGED_VERSION, "event": event}
    return outcome.model_copy(update=emptied).model_dump_json()


async def _delete(database: Database, table: Any, settled: Any, indexed: Any, before: datetime) -> int:
    """Delete a batch of settled rows; rows that another transaction has locked are left for the next time."""
    async with database.transaction() as connection:
        batch = (
            select(table.c.id)
            .where(indexed < before, settled < before)
            .order_by(indexed)
            .limit(_ROWS)
            .with_for_update(skip_locked=True)
        )
        deleted = await connection.execute(delete(table).where(table.c.id.in_(batch)))
        return deleted.rowcount


async def _count(connection: AsyncConnection, table: Any, *where: Any) -> int:
    return await connection.scalar(select(func.count()).select_from(table).where(*where)) or 0
