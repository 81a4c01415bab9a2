"""Recovery's queries: which sagas may have no live driver, and how a saga whose execution was terminated is undone.

This module uses only SQL. Whether an execution is running is known to Temporal, which the caller has asked. That answer
may be outdated, so the undo is a compare-and-set on phase and owner, under the lock of the saga's row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, literal, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.commands import Phase
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import IS_UNFINISHED, saga, saga_dead_letter, saga_lock, saga_meta
from orchestrator.store.remote.fence import Unsettled, has_happened, home_row, once_settled
from orchestrator.store.saga.step_rows import steps_of
from orchestrator.store.saga.undo import begin_undoing, first_past_undoing
from orchestrator.store.saga.waits import LOOK_AFTER

TERMINATED = "saga.terminated"
"""The error code of a saga that was undone because its execution was terminated."""
ENDED_BY = "recovery"
"""What a saga's row records as `ended_by` if recovery has ended the saga."""
_COLUMNS = (
    saga.c.id,
    saga.c.orchestrator,
    saga.c.event_id,
    saga.c.envelope,
    saga.c.content_digest,
    saga.c.purged_at,
    saga.c.phase,
    saga.c.owner_workflow_id,
    saga.c.owner_first_run_id,
    saga.c.progressed_at,
    saga.c.created_at,
)


_mine, _ahead = saga_lock.alias(), saga_lock.alias()
_WAITS = exists(
    select(literal(1)).where(
        _mine.c.saga_id == saga.c.id, _ahead.c.key == _mine.c.key, _ahead.c.ticket > 0, _ahead.c.ticket < _mine.c.ticket
    )
).correlate(saga)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSaga:
    """The columns of a saga's row that recovery needs; a driver may be advancing the saga at the same time."""

    id: UUID
    orchestrator: str
    event_id: str
    envelope: str
    content_digest: str
    is_purged: bool
    """Whether the payload has been deleted, so that only the event's digest remains."""
    phase: Phase
    owner_workflow_id: str
    """The execution that drove the saga last; empty if none did."""
    owner_first_run_id: str
    progressed_at: datetime
    created_at: datetime


class UndoAnswer(StrEnum):
    """The result of asking to undo a saga whose execution was terminated."""

    UNDOING = "undoing"
    """The saga is undoing now, or would be if the undo had been requested."""
    ENDED = "ended"
    """The saga has an outcome."""
    PAST_PIVOT = "past_pivot"
    """A step that cannot be undone is done, or may be at an external service, so the saga must complete."""
    OWNER_CHANGED = "owner_changed"
    """Another execution has become the owner."""


async def stalled_sagas(
    database: Database,
    *,
    before: datetime,
    now: datetime,
    waiting_before: datetime | None = None,
    from_future: bool = False,
    after: RecordedSaga | None = None,
    limit: int = 200,
) -> Sequence[RecordedSaga]:
    """Return a page of unfinished sagas, starting with those that have made no progress for the longest time.

    Args:
        database: the home database.
        before: only sagas that last made progress before this time.
        now: sagas that are waiting until later than this time are left out.
        waiting_before: replaces `before` for sagas that wait for another saga's lock, because they rarely check.
        from_future: return the sagas whose last progress is in the future instead. A worker whose clock was ahead has
            written that time, and otherwise these sagas would not be found before then.
        after: the last saga of the previous page.
        limit: how many sagas a page has.
    """
    latest = now + LOOK_AFTER + timedelta(seconds=clock.AHEAD)
    stalled = saga.c.progressed_at <= before
    if from_future:
        stalled, waiting_before = saga.c.progressed_at > clock.now_plus(clock.AHEAD), None
    statement = (
        select(*_COLUMNS)
        .where(
            IS_UNFINISHED,
            stalled,
            # A waiting saga is checked at `latest` or before; a later time was written by a clock that was ahead.
            or_(saga.c.next_at.is_(None), saga.c.next_at <= now, saga.c.next_at > latest),
            or_(
                saga.c.lock_keys.is_(None),
                stalled if waiting_before is None else saga.c.progressed_at <= waiting_before,
                not_(_WAITS),
            ),
        )
        .order_by(saga.c.progressed_at, saga.c.id)
        .limit(limit)
    )
    if after is not None:
        same_moment = and_(saga.c.progressed_at == after.progressed_at, saga.c.id > after.id)
        statement = statement.where(
            # Follows from the next term. It is in a form that lets the database start its index scan there.
            saga.c.progressed_at >= after.progressed_at,
            or_(saga.c.progressed_at > after.progressed_at, same_moment),
        )
    async with database.reading() as connection:
        return [_recorded(row) for row in await connection.execute(statement)]


async def recorded_sagas(database: Database, ids: Iterable[UUID]) -> Mapping[UUID, RecordedSaga]:
    """Return those of these sagas that have a row, including ended ones."""
    statement = select(*_COLUMNS).where(saga.c.id.in_(list(ids)))
    async with database.reading() as connection:
        return {row.id: _recorded(row) for row in await connection.execute(statement)}


async def undo_if_still_owned(
    database: Database | Databases,
    recorded: RecordedSaga,
    message: str,
    *,
    ends_as: Phase = Phase.CANCELLED,
    error_code: str = TERMINATED,
) -> UndoAnswer:
    """Begin a saga's undo on behalf of its execution, unless the saga has changed since it was read.

    The saga's next driver runs the compensations. Safe to repeat and concurrently, because the first call decides.

    Args:
        database: the home database; or all databases, if steps are in remote ones.
        recorded: the saga, with the owner whose execution was terminated or keeps failing.
        message: the reason, for users.
        ends_as: the phase in which the saga ends.
        error_code: the reason, for programs.
    """
    databases = Databases.of(database)

    async def decide(connection: AsyncConnection) -> UndoAnswer:
        answer = await _answer(connection, recorded)
        if answer is UndoAnswer.UNDOING:
            await begin_undoing(
                connection,
                recorded.id,
                ends_as=ends_as,
                error_code=error_code,
                message=message,
                ended_by=ENDED_BY,
            )
        return answer

    return await once_settled(databases, lambda: databases.home.in_transaction(decide))


async def would_undo(database: Database | Databases, recorded: RecordedSaga) -> UndoAnswer:
    """Return what `undo_if_still_owned` would return now; nothing is changed."""
    databases = Databases.of(database)
    try:
        async with databases.home.reading() as connection:
            return await _answer(connection, recorded)
    except Unsettled as unsettled:
        row = await home_row(databases.home, recorded.id, unsettled.number)
        happened = row is not None and await has_happened(databases.named(row.database), recorded.id, unsettled.number)
        return UndoAnswer.PAST_PIVOT if happened else UndoAnswer.UNDOING


async def _answer(connection: AsyncConnection, recorded: RecordedSaga) -> UndoAnswer:
    # As at the beginning of every undo, the lock waits for open steps, and the next statement sees all of them.
    locked = await connection.execute(
        select(saga.c.phase, saga.c.owner_workflow_id, saga.c.owner_first_run_id, saga.c.pivot_step)
        .where(saga.c.id == recorded.id)
        .with_for_update()
    )
    row = locked.first()
    steps = await steps_of(connection, recorded.id)
    if row is None or Phase(row.phase).is_final:
        return UndoAnswer.ENDED
    if row.phase == Phase.UNDOING.value:
        return UndoAnswer.UNDOING
    owner = (row.owner_workflow_id or "", row.owner_first_run_id or "")
    if owner != (recorded.owner_workflow_id, recorded.owner_first_run_id):
        return UndoAnswer.OWNER_CHANGED
    if row.pivot_step is not None or first_past_undoing(recorded.id, steps) is not None:
        return UndoAnswer.PAST_PIVOT
    return UndoAnswer.UNDOING


async def stored_positions(database: Database, workflow_id: str, run_id: str) -> frozenset[int]:
    """Return the positions of a run's messages that are completely stored as dead letters."""
    table = saga_dead_letter.c
    statement = select(table.origin_position).where(
        table.origin_workflow_id == workflow_id,
        table.origin_run_id == run_id,
        func.length(table.raw) == table.size,
    )
    async with database.reading() as connection:
        return frozenset(await connection.scalars(statement))


async def swept_until(database: Database) -> datetime | None:
    """Return the time before which all closed executions have been checked; None if none have been."""
    async with database.reading() as connection:
        return await connection.scalar(select(saga_meta.c.swept_until))


async def record_swept(database: Database, until: datetime, *, latest: datetime) -> None:
    """Record that executions that closed before a time have been checked.

    The mark never moves back, unless it is in the future because a worker whose clock was ahead has written it.

    Args:
        database: the home database.
        until: the time, by Temporal's clock, before which executions have been checked.
        latest: the latest plausible mark; a later one is in the future.
    """
    mark = saga_meta.c.swept_until
    async with database.transaction() as connection:
        await connection.execute(
            update(saga_meta).where(or_(mark.is_(None), mark < until, mark > latest)).values(swept_until=until)
        )


def _recorded(row: Any) -> RecordedSaga:
    return RecordedSaga(
        id=row.id,
        orchestrator=row.orchestrator,
        event_id=row.event_id,
        envelope=row.envelope,
        content_digest=row.content_digest,
        is_purged=row.purged_at is not None,
        phase=Phase(row.phase),
        owner_workflow_id=row.owner_workflow_id or "",
        owner_first_run_id=row.owner_first_run_id or "",
        progressed_at=row.progressed_at,
        created_at=row.created_at,
    )
