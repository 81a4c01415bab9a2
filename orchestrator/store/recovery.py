"""What recovery asks of the database: which sagas nobody may be driving, and the undoing of one that was terminated.

Knows SQL alone. Whether an execution runs is Temporal's to know: whoever calls has asked there. So nothing here trusts
what was seen before: the undoing is a compare-and-set on phase and owner, under the lock of the saga's row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists, func, literal, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import OrchestratorError, Unreachable
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
"""Error code of a saga that was undone because its execution was terminated."""
ENDED_BY = "recovery"
"""Who ended it, on the saga's row."""
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


class RecoveryRefused(OrchestratorError):
    """The database belongs to another Temporal: to recover its sagas would be to run another system's sagas again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSaga:
    """A saga's row, as far as recovery needs it; somebody may be driving it at the same time."""

    id: UUID
    orchestrator: str
    event_id: str
    envelope: str
    content_digest: str
    is_purged: bool
    """Its payload is deleted: of its event only the digest is known."""
    phase: Phase
    owner_workflow_id: str
    """The execution that drove it last; empty if no execution did."""
    owner_first_run_id: str
    progressed_at: datetime
    created_at: datetime


class UndoAnswer(StrEnum):
    """What became of the wish to undo a saga whose execution was terminated."""

    UNDOING = "undoing"
    """It is turned to undoing (or would be), or had been before."""
    ENDED = "ended"
    """It has its outcome."""
    PAST_PIVOT = "past_pivot"
    """A step that cannot be undone was done, or outside may have been: it goes on to its end."""
    OWNER_CHANGED = "owner_changed"
    """Another execution drives it since."""


async def overdue_sagas(
    database: Database,
    *,
    before: datetime,
    now: datetime,
    waiting_before: datetime | None = None,
    from_future: bool = False,
    after: RecordedSaga | None = None,
    limit: int = 200,
) -> Sequence[RecordedSaga]:
    """A page of unfinished sagas, the longest silent first.

    Args:
        database: the home database.
        before: only those that progressed last before then.
        now: those that are to be looked at later than this are left out.
        waiting_before: the same as `before` for those that wait for a lock that another saga holds: they look seldom.
        from_future: instead those whose last progress lies in the future: a worker whose clock was ahead wrote it, and
            nobody would look at them until then.
        after: the last one of the page before.
        limit: sagas a page.
    """
    latest = now + LOOK_AFTER + timedelta(seconds=clock.AHEAD)
    silent = saga.c.progressed_at <= before
    if from_future:
        silent, waiting_before = saga.c.progressed_at > clock.now_plus(clock.AHEAD), None
    statement = (
        select(*_COLUMNS)
        .where(
            IS_UNFINISHED,
            silent,
            # No wait is to be looked at later than that: what says so was written by a clock that was ahead.
            or_(saga.c.next_at.is_(None), saga.c.next_at <= now, saga.c.next_at > latest),
            or_(
                saga.c.lock_keys.is_(None),
                silent if waiting_before is None else saga.c.progressed_at <= waiting_before,
                not_(_WAITS),
            ),
        )
        .order_by(saga.c.progressed_at, saga.c.id)
        .limit(limit)
    )
    if after is not None:
        same_moment = and_(saga.c.progressed_at == after.progressed_at, saga.c.id > after.id)
        statement = statement.where(
            # Says the same as the next term, in words with which an index is entered at this place.
            saga.c.progressed_at >= after.progressed_at,
            or_(saga.c.progressed_at > after.progressed_at, same_moment),
        )
    async with database.reading() as connection:
        return [_recorded(row) for row in await connection.execute(statement)]


async def recorded_sagas(database: Database, ids: Iterable[UUID]) -> Mapping[UUID, RecordedSaga]:
    """Those of these sagas that have a row, ended ones among them."""
    statement = select(*_COLUMNS).where(saga.c.id.in_(list(ids)))
    async with database.reading() as connection:
        return {row.id: _recorded(row) for row in await connection.execute(statement)}


async def undo_if_still_owned(
    given: Database | Databases,
    recorded: RecordedSaga,
    message: str,
    *,
    ends_as: Phase = Phase.CANCELLED,
    error_code: str = TERMINATED,
) -> UndoAnswer:
    """Turn a saga to undoing because its execution cannot, if nothing has changed since it was looked at.

    The compensations are its next driver's. Safe to repeat, and from several at once: the first one decides.

    Args:
        given: the home database, with the others if steps are in them.
        recorded: the saga, with the owner whose execution was terminated, or fails.
        message: why, for a person.
        ends_as: the phase that it ends in.
        error_code: why, for programs.
    """
    databases = Databases.of(given)

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


async def would_undo(given: Database | Databases, recorded: RecordedSaga) -> UndoAnswer:
    """What `undo_if_still_owned` would answer now; nothing is changed."""
    databases = Databases.of(given)
    try:
        async with databases.home.reading() as connection:
            return await _answer(connection, recorded)
    except Unsettled as unsettled:
        row = await home_row(databases.home, recorded.id, unsettled.number)
        happened = row is not None and await has_happened(databases.named(row.database), recorded.id, unsettled.number)
        return UndoAnswer.PAST_PIVOT if happened else UndoAnswer.UNDOING


async def _answer(connection: AsyncConnection, recorded: RecordedSaga) -> UndoAnswer:
    # As a turn does: the lock waits for steps that are open, and the next statement sees them all.
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


async def kept_positions(database: Database, workflow_id: str, run_id: str) -> frozenset[int]:
    """Positions of a run's messages that are whole among the dead letters."""
    table = saga_dead_letter.c
    statement = select(table.origin_position).where(
        table.origin_workflow_id == workflow_id,
        table.origin_run_id == run_id,
        func.length(table.raw) == table.size,
    )
    async with database.reading() as connection:
        return frozenset(await connection.scalars(statement))


async def swept_until(database: Database) -> datetime | None:
    """Executions that closed before then were looked through. None: never yet."""
    async with database.reading() as connection:
        return await connection.scalar(select(saga_meta.c.swept_until))


async def record_swept(database: Database, until: datetime, *, latest: datetime) -> None:
    """Record up to when closed executions were looked through.

    It never goes back, unless it lies in the future: a worker whose clock was ahead has written it then.

    Args:
        database: the home database.
        until: executions that closed before then were looked through, by Temporal's clock.
        latest: a mark after this one lies in the future.
    """
    mark = saga_meta.c.swept_until
    async with database.transaction() as connection:
        await connection.execute(
            update(saga_meta).where(or_(mark.is_(None), mark < until, mark > latest)).values(swept_until=until)
        )


async def check_belonging(database: Database, namespace: str, cluster_id: str) -> None:
    """Make sure that the database's sagas run on this Temporal. Where nobody has said, they do.

    Raises:
        RecoveryRefused: they run on another; the message says what to do.
    """
    known = await _belongs_to(database)
    if known[0] in (None, namespace) and known[1] in (None, cluster_id):
        return
    raise RecoveryRefused(
        f"The database at {database.shown} belongs to namespace {known[0]!r} of Temporal cluster {known[1]}, and this "
        f"is {namespace!r} of {cluster_id}. Nothing is recovered here: if it is a copy, its sagas are the original's. "
        "If this Temporal has taken the place of one that is lost, run: orchestrator recover --adopt"
    )


async def check_shared(databases: Databases) -> None:
    """Make sure that no other database holds the steps of another home: of two homes with equal sagas, one would take
    the other's steps for its own, and do nothing.

    Sagas are named by orchestrator and event, and so are executions: in one Temporal namespace there is one of each.

    Raises:
        Unreachable: one does; the message says what to do.
    """
    home = await _belongs_to(databases.home)
    for name, database in databases.others.items():
        there = await _belongs_to(database)
        if any(None not in pair and pair[0] != pair[1] for pair in zip(home, there, strict=True)):
            raise Unreachable(
                f"The database {name!r} at {database.shown} belongs to namespace {there[0]!r} of Temporal cluster "
                f"{there[1]}, and home to {home[0]!r} of {home[1]}: another home has its steps there, and equal events "
                "would be taken for one. Give each home a database of its own. If that home is gone, run: "
                "orchestrator recover --adopt"
            )


async def _belongs_to(database: Database) -> tuple[str | None, str | None]:
    statement = select(saga_meta.c.temporal_namespace, saga_meta.c.temporal_cluster_id)
    async with database.reading() as connection:
        row = (await connection.execute(statement)).first()
    return (None, None) if row is None else (row.temporal_namespace, row.temporal_cluster_id)


async def adopt(database: Database, namespace: str, cluster_id: str) -> None:
    """Make the database belong to this Temporal. Its closed executions have not been looked through."""
    async with database.transaction() as connection:
        await connection.execute(
            update(saga_meta).values(temporal_namespace=namespace, temporal_cluster_id=cluster_id, swept_until=None)
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
