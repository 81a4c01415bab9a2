"""Opening a saga: the one place where a saga's row is written for the first time, or met again.

An upsert that carries the envelope, so that a saga may be cancelled, refused or finished before any step opened it.
It leaves the row locked unless the saga has ended; ended sagas are never written again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import literal_column, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.catalog import Catalog
from orchestrator.drive.messages import Decided, Expired, Opening, Outcome, Phase, Reused
from orchestrator.envelope import UnreadableEvent, read, unwrap
from orchestrator.store.schema import saga

_COLUMNS = (
    saga.c.id,
    saga.c.phase,
    saga.c.reason,
    saga.c.error_code,
    saga.c.message,
    saga.c.outcome,
    saga.c.envelope,
    saga.c.content_digest,
    saga.c.created_at,
)


class OpenedBefore(Exception):
    """The row carries the same event with another time."""

    def __init__(self, envelope: str) -> None:
        self.envelope = envelope
        super().__init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSaga:
    """A saga's row as the deciding statement saw it."""

    id: UUID
    phase: Phase
    reason: Phase | None
    """The phase an undoing saga ends in."""
    error_code: str | None
    message: str | None
    outcome: str | None
    """The outcome's JSON, once the saga has ended."""
    envelope: str
    content_digest: str
    created_at: datetime
    reused: bool
    """The row is another event's that has the same id; nothing was changed."""


def insert_into(connection: AsyncConnection, table: Any) -> Any:
    """The dialect's own insert, which knows ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


async def open_sagas(
    connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog, *, begins: bool
) -> dict[UUID, OpenSaga]:
    """Write each saga's row, or lock the one that is there.

    Args:
        connection: in the transaction that decides.
        openings: one to fifty sagas, any order; rows are locked in the order of their ids, so two callers never wait
            for each other in a circle.
        catalog: tells whether two envelopes say the same.
        begins: a driver begins here: it becomes the owner, and `drives` is raised.

    Returns:
        Each saga by its id.
    """
    now = datetime.now(UTC)
    given = {opening.saga.id: opening for opening in openings}
    rows = [_values(given[key], catalog, now) for key in sorted(given)]
    found = await _upsert(connection, rows, begins=begins)
    # Ended sagas, and those with other content, are not touched by the upsert: read them as they are.
    missing = [key for key in sorted(given) if key not in found]
    if missing:
        result = await connection.execute(select(*_COLUMNS).where(saga.c.id.in_(missing)))
        met = {row.id: row for row in result}
        for key in missing:
            row = met[key]
            reused = not _same_content(given[key], row, catalog)
            if not reused and not Phase(row.phase).is_final:
                # The same event, written by an older contract: take the row as ours, now under its lock.
                statement = update(saga).where(saga.c.id == key, saga.c.phase.in_(_UNFINISHED))
                touched = statement.values(progressed_at=now).returning(*_COLUMNS)
                row = (await connection.execute(touched)).first() or await _row(connection, key)
            found[key] = _open(row, reused=reused)
    return found


async def begin_saga(
    connection: AsyncConnection, opening: Opening, catalog: Catalog, *, begins: bool
) -> Decided | Reused | Expired | None:
    """Open a saga for a driver's first step. None: it goes forward.

    Raises:
        OpenedBefore: by the same event sent at another time. Raised, so that nothing of this opening stays.
    """
    row = (await open_sagas(connection, [opening], catalog, begins=begins))[opening.saga.id]
    if row.reused:
        return Reused()
    if row.phase is not Phase.FORWARD:
        return Decided(phase=row.phase)
    if row.envelope != opening.envelope and read(row.envelope).time != read(opening.envelope).time:
        raise OpenedBefore(row.envelope)
    if opening.deadline is not None and datetime.now(UTC) - row.created_at > timedelta(seconds=opening.deadline):
        return Expired()
    return None


async def lock_saga(connection: AsyncConnection, opening: Opening, catalog: Catalog) -> OpenSaga | Outcome | Reused:
    """A saga's row, locked for a transition (written first, if nobody has), or what leaves none to make."""
    row = (await open_sagas(connection, [opening], catalog, begins=False))[opening.saga.id]
    if row.reused:
        return Reused()
    return row if row.outcome is None else Outcome.model_validate_json(row.outcome)


_UNFINISHED = (Phase.FORWARD.value, Phase.UNDOING.value)
# In SQL, not as parameters: a statement for many rows takes its parameters from each row.
_IS_UNFINISHED = or_(*(saga.c.phase == literal_column(f"'{phase}'") for phase in _UNFINISHED))


@cache
def _upserting(dialect: str, *, begins: bool) -> Any:
    make: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    statement = make(saga)
    changed: dict[str, Any] = {"progressed_at": statement.excluded.progressed_at}
    if begins:
        changed["drives"] = saga.c.drives + literal_column("1")
        changed["owner_workflow_id"] = statement.excluded.owner_workflow_id
        changed["owner_first_run_id"] = statement.excluded.owner_first_run_id
    return statement.on_conflict_do_update(
        index_elements=[saga.c.id],
        set_=changed,
        where=_IS_UNFINISHED & (saga.c.content_digest == statement.excluded.content_digest),
    ).returning(*_COLUMNS)


async def _upsert(connection: AsyncConnection, rows: Sequence[dict[str, Any]], *, begins: bool) -> dict[UUID, OpenSaga]:
    # Given as parameters, not as VALUES of the statement: those SQLAlchemy would compile anew at each call.
    result = await connection.execute(_upserting(connection.dialect.name, begins=begins), rows)
    return {row.id: _open(row, reused=False) for row in result}


async def _row(connection: AsyncConnection, key: UUID) -> Any:
    return (await connection.execute(select(*_COLUMNS).where(saga.c.id == key))).one()


def _values(opening: Opening, catalog: Catalog, now: datetime) -> dict[str, Any]:
    envelope = read(opening.envelope)
    return {
        "id": opening.saga.id,
        "orchestrator": opening.saga.orchestrator,
        "event_id": envelope.event_id,
        "envelope": opening.envelope,
        "event_type": envelope.event_type,
        "event_version": envelope.version,
        "content_digest": envelope.content_digest,
        "definition_digest": catalog.definition_digest(opening.saga.orchestrator),
        "phase": Phase.FORWARD.value,
        "owner_workflow_id": opening.owner_workflow_id,
        "owner_first_run_id": opening.owner_first_run_id,
        "drives": 1,
        "progressed_at": now,
        "created_at": now,
    }


def _open(row: Any, *, reused: bool) -> OpenSaga:
    return OpenSaga(
        id=row.id,
        phase=Phase(row.phase),
        reason=None if row.reason is None else Phase(row.reason),
        error_code=row.error_code,
        message=row.message,
        outcome=row.outcome,
        envelope=row.envelope,
        content_digest=row.content_digest,
        created_at=row.created_at,
        reused=reused,
    )


def _same_content(opening: Opening, row: Any, catalog: Catalog) -> bool:
    given, known = read(opening.envelope), read(row.envelope)
    if given.content_digest == known.content_digest:
        return True
    # Digests are of what was sent. A newer contract may write a default that an older one left out.
    event_class = catalog.orchestrators[opening.saga.orchestrator].requested
    same: Callable[[Any], Any] = lambda envelope: unwrap(envelope, event_class)  # noqa: E731
    try:
        return bool(same(given) == same(known))
    except UnreadableEvent:
        return False
