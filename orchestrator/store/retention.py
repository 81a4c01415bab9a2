"""Retention: what is deleted of sagas that ended long ago, and what stays for ever.

A saga's row stays: with its orchestrator, event id, content digest and outcome a late repeat is still a repeat, and
with its phase the guard is shut for whatever still comes. Its steps at home go, and its payload: the event's fields, in
the envelope and wherever the outcome repeats them, and what it locked. Events that were sent and dead letters that were
settled go, too.

In another database the guard cannot be read: there a step's row is the only fence, and one that was deleted would let
in an attempt that is late by however much. So it stays, emptied of what it was given and gave back.
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
from orchestrator.protocol.envelope import stripped
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_outbox, saga_step

PURGED_VERSION = 0
"""Version of an outcome's `triggering` whose fields are purged: no contract has it, so nothing passes for the same."""
_SAGAS = 50
_BYTES = 8 * 1024 * 1024
"""Of outcomes that are rewritten in one transaction."""
_ROWS = 500
"""Rows that are deleted in one statement."""
_FINAL = tuple(phase.value for phase in Phase if phase.is_final)
_UNDONE = (Phase.FAILED.value, Phase.CANCELLED.value)


@dataclass(frozen=True, slots=True)
class Purge:
    """What is purged, or would be."""

    sagas: int = 0
    """Whose steps and payload go."""
    steps: int = 0
    outbox: int = 0
    """Events that were sent, in all databases."""
    dead_letters: int = 0
    """Those that were settled."""
    held: int = 0
    """Sagas that are old enough, and stay for now: an effect outside may stand, or a database is not known here."""

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
        """How much there is to do."""
        return self.sagas + self.outbox + self.dead_letters


_outside = saga_step.alias("outside")
# As `external_undo.left_standing` finds them: recovery is still to look at these, or to take them back.
_LEFT_OUTSIDE = (
    select(func.count())
    .select_from(_outside)
    .where(
        _outside.c.saga_id == saga.c.id,
        _outside.c.kind == "external",
        _outside.c.irreversible == false(),
        _outside.c.attempted_at.is_not(None),
        or_(
            _outside.c.state == StepState.ATTEMPTING.value,
            and_(_outside.c.state.in_((StepState.DONE.value, StepState.BARRED.value)), saga.c.phase.in_(_UNDONE)),
            and_(
                _outside.c.state == StepState.REFUSED.value,
                _outside.c.result.is_not(None),
                _outside.c.undone_at.is_(None),
            ),
        ),
    )
    .correlate(saga)
    .scalar_subquery()
)
"""Counted for each saga that is looked at: of an EXISTS, PostgreSQL may make a hash of all steps of all sagas."""
_EMPTY = (
    update(saga)
    .where(saga.c.id == bindparam("purged"))
    .values(
        envelope=bindparam("stripped"),
        outcome=bindparam("ended"),
        lock_keys=None,
        ordering_key=None,
        purged_at=clock.now(),
    )
)


def _held(databases: Databases) -> Any:
    """What stays though it is old enough: a database that is not known here may have a step's payload, too."""
    known = [name for name, _ in databases]
    elsewhere = (
        select(func.count())
        .select_from(_outside)
        .where(_outside.c.saga_id == saga.c.id, _outside.c.database.not_in(known))
    )
    return or_(_LEFT_OUTSIDE > 0, elsewhere.correlate(saga).scalar_subquery() > 0)


def _old(before: datetime) -> Any:
    # With the words of the index, so that it is used.
    return and_(saga.c.finished_at < before, saga.c.finished_at.is_not(None), saga.c.purged_at.is_(None))


async def purge_some(databases: Databases, *, before: datetime) -> Purge:
    """Purge a batch of everything that ended before then. Safe to repeat, and from several at once.

    Args:
        databases: home and the others.
        before: never later than now by the database's clock.

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
    """What would be purged now; nothing is changed."""
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
    """The time before which nothing is deleted too early: what the database's clock says, or this machine's if that is
    earlier. Rows are written by the database's clock alone; the second one only protects from a database whose clock
    has jumped ahead, because what is deleted cannot be brought back."""
    return min(await clock.read_clock(database), datetime.now(UTC))


async def _candidates(databases: Databases, before: datetime) -> list[UUID]:
    """Sagas to purge, the longest ended first: as many as one transaction can rewrite."""
    size = func.length(saga.c.outcome) + func.length(saga.c.envelope)
    statement = (
        select(saga.c.id, size.label("size"))
        .where(_old(before), saga.c.phase.in_(_FINAL), ~_held(databases))
        .order_by(saga.c.finished_at)
        .limit(_SAGAS)
    )
    taken: list[UUID] = []
    room = _BYTES
    async with databases.home.reading() as connection:
        for row in await connection.execute(statement):
            room -= row.size or 0
            if taken and room < 0:
                break
            taken.append(row.id)
    return taken


async def _purge_sagas(databases: Databases, candidates: Sequence[UUID]) -> tuple[int, int]:
    # The other databases first: once the row at home says that it is purged, nobody comes back for them.
    await _empty_elsewhere(databases, candidates)

    async def purge(connection: AsyncConnection) -> tuple[int, int]:
        # By id, as all who lock several; what somebody else holds is left for the next time.
        locked = await connection.execute(
            select(saga.c.id, saga.c.envelope, saga.c.outcome)
            .where(saga.c.id.in_(candidates), saga.c.phase.in_(_FINAL), saga.c.purged_at.is_(None), ~_held(databases))
            .order_by(saga.c.id)
            .with_for_update(skip_locked=True)
        )
        rows = locked.all()
        if not rows:
            return 0, 0
        gone = await connection.execute(delete(saga_step).where(saga_step.c.saga_id.in_([row.id for row in rows])))
        emptied = [
            {"purged": row.id, "stripped": stripped(row.envelope), "ended": _stripped_outcome(row.outcome)}
            for row in rows
        ]
        await connection.execute(_EMPTY, emptied)
        return len(rows), gone.rowcount

    return await databases.home.in_transaction(purge)


async def _empty_elsewhere(databases: Databases, sagas: Sequence[UUID]) -> None:
    statement = (
        select(saga_step.c.saga_id, saga_step.c.database)
        .where(saga_step.c.saga_id.in_(list(sagas)), saga_step.c.database != HOME)
        .distinct()
    )
    async with databases.home.reading() as connection:
        found = (await connection.execute(statement)).all()
    emptied = {"arguments": "{}", "result": None, "error": None, "skipped_by": None, "skip_reason": None}
    for name in sorted({row.database for row in found}):
        here = [row.saga_id for row in found if row.database == name]
        async with databases.named(name).transaction() as connection:
            await connection.execute(update(saga_step).where(saga_step.c.saga_id.in_(here)).values(emptied))


def _stripped_outcome(text: str) -> str:
    outcome = Outcome.model_validate_json(text)
    event = dict(outcome.event)
    data = event.get("data")
    if outcome.phase is not Phase.COMPLETED and isinstance(data, dict):
        event["data"] = {**data, "event": {}}
    emptied = {"triggering": {}, "triggering_version": PURGED_VERSION, "event": event}
    return outcome.model_copy(update=emptied).model_dump_json()


async def _delete(database: Database, table: Any, settled: Any, indexed: Any, before: datetime) -> int:
    """Delete a batch of rows that are settled; what somebody else holds is left for the next time."""
    async with database.transaction() as connection:
        batch = (
            select(table.c.id)
            .where(indexed < before, settled < before)
            .order_by(indexed)
            .limit(_ROWS)
            .with_for_update(skip_locked=True)
        )
        gone = await connection.execute(delete(table).where(table.c.id.in_(batch)))
        return gone.rowcount


async def _count(connection: AsyncConnection, table: Any, *where: Any) -> int:
    return await connection.scalar(select(func.count()).select_from(table).where(*where)) or 0
