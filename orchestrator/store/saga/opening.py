"""Opening a saga: the one place where a saga's row is written for the first time, or met again.

An upsert that carries the envelope, so that a saga may be cancelled, refused or finished before any step opened it.
It leaves the row locked unless the saga has ended; ended sagas are never written again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import Text, bindparam, column, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Blocked, Blocker, Decided, Expired, Opening, Outcome, Phase, Reused
from orchestrator.protocol.envelope import UnreadableEvent, read, unwrap
from orchestrator.store.core import clock
from orchestrator.store.core.columns import UtcTime
from orchestrator.store.core.saga_ids import OF_SAGAS, ids_as_json
from orchestrator.store.core.schema import saga
from orchestrator.store.locks import blockers, draw
from orchestrator.store.outbox import forward

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
    saga.c.drives,
    saga.c.lock_keys,
    saga.c.purged_at,
    saga.c.progressed_at,
)
_SEEN_AT = clock.now().label("seen_at")
_READ = select(*_COLUMNS, _SEEN_AT)


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
    seen_at: datetime = field(compare=False)
    """When it was read, by the database's clock; `created_at` is written by the same one."""
    drives: int
    """How often a driver began it; those that only waited for locks are not counted."""
    lock_keys: tuple[str, ...]
    reused: bool
    """The row is another event's that has the same id; nothing was changed."""
    blocked_by: tuple[Blocker, ...] = ()
    """For whom it waits; only told by an opening that draws."""
    _read: float = field(default_factory=monotonic, compare=False)

    @property
    def age(self) -> timedelta:
        """How long ago the saga was opened, whatever the clock of this worker says."""
        return self.seen_at - self.created_at + timedelta(seconds=monotonic() - self._read)


def insert_into(connection: AsyncConnection, table: Any) -> Any:
    """The dialect's own insert, which knows ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


async def open_sagas(
    connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog, *, begins: bool, draws: bool = False
) -> dict[UUID, OpenSaga]:
    """Write each saga's row, or lock the one that is there.

    Args:
        connection: in the transaction that decides.
        openings: one to fifty sagas, in the order of arrival; rows are locked in the order of their ids, so two callers
            never wait for each other in a circle.
        catalog: tells whether two envelopes say the same.
        begins: a driver begins here: unless the saga waits for locks, it becomes the owner, and `drives` is raised.
            It draws, too.
        draws: tickets are drawn for sagas that go forward and have none, and `blocked_by` is told.

    Returns:
        Each saga by its id.
    """
    given = {opening.saga.id: opening for opening in openings}
    rows = [_values(connection, opening, catalog) for opening in given.values()]
    statement = _UPSERTS[connection.dialect.name, begins]
    upserted = (await connection.execute(statement, {"rows": json.dumps(rows)})).all()
    found = {row.id: _open(row, reused=False) for row in upserted}
    # Ended sagas, and those with other content, are not touched by the upsert: read them as they are.
    missing = [key for key in sorted(given) if key not in found]
    if missing:
        result = await connection.execute(_READ.where(saga.c.id.in_(missing)))
        met = {row.id: row for row in result}
        for key in missing:
            row = met[key]
            reused = not _same_content(given[key], row, catalog)
            if not reused and not Phase(row.phase).is_final:
                # The same event, written by an older contract: take the row as ours, now under its lock.
                statement = update(saga).where(saga.c.id == key, saga.c.phase.in_(_UNFINISHED))
                touched = statement.values(progressed_at=clock.now()).returning(*_COLUMNS, _SEEN_AT)
                row = (await connection.execute(touched)).first() or await _row(connection, key)
            found[key] = _open(row, reused=reused)
    if catalog.shared:
        # A row that this statement has inserted has one time in both columns, the statement's own.
        new = [given[row.id] for row in upserted if row.created_at == row.progressed_at]
        await forward(connection, new, catalog)
    locking = [found[key] for key in given if found[key].lock_keys and not found[key].reused]
    if locking and (begins or draws):
        found |= await _with_locks(connection, locking, given, begins=begins)
    return found


async def _with_locks(
    connection: AsyncConnection, sagas: Sequence[OpenSaga], given: Mapping[UUID, Opening], *, begins: bool
) -> dict[UUID, OpenSaga]:
    """Those of the sagas with locks that have not ended, as they stand with their tickets."""
    forward = [one for one in sagas if one.phase is Phase.FORWARD]
    blocked: Mapping[UUID, tuple[Blocker, ...]] = {}
    if forward:
        # What the row says counts: `locks` may answer otherwise since.
        await draw(connection, {one.id: one.lock_keys for one in forward})
        blocked = await blockers(connection, [one.id for one in forward])
    begun = [one for one in sagas if begins and one.id not in blocked and not one.phase.is_final]
    if begun:
        owned = [
            {
                "begun": one.id,
                "owner": given[one.id].owner_workflow_id,
                "first_run": given[one.id].owner_first_run_id,
            }
            for one in sorted(begun, key=lambda one: one.id)
        ]
        await connection.execute(_BEGIN, owned)
    drives = {one.id: one.drives + 1 for one in begun}
    return {
        one.id: replace(one, blocked_by=blocked.get(one.id, ()), drives=drives.get(one.id, one.drives)) for one in sagas
    }


async def begin_saga(
    connection: AsyncConnection, opening: Opening, catalog: Catalog, *, begins: bool
) -> Decided | Reused | Expired | Blocked | None:
    """Open a saga for a driver's first step, with its tickets. None: it goes forward.

    Raises:
        OpenedBefore: by the same event sent at another time. Raised, so that nothing of this opening stays.
    """
    row = (await open_sagas(connection, [opening], catalog, begins=begins, draws=True))[opening.saga.id]
    if row.reused:
        return Reused()
    if row.phase is not Phase.FORWARD:
        return Decided(phase=row.phase)
    if row.envelope != opening.envelope and read(row.envelope).time != read(opening.envelope).time:
        raise OpenedBefore(row.envelope)
    if opening.deadline is not None and row.age.total_seconds() > opening.deadline:
        return Expired()
    return Blocked(by=row.blocked_by) if row.blocked_by else None


async def lock_sagas(
    connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog
) -> dict[UUID, OpenSaga]:
    """Sagas' rows locked for a transition, as `open_sagas` does it, where nearly all of them are there.

    Those are locked and not written: a row's new version costs PostgreSQL an entry in each of its indexes.
    """
    given = {opening.saga.id: opening for opening in openings}
    keys = ids_as_json(connection.dialect.name, given)
    met = {row.id: row for row in await connection.execute(_LOCKS[connection.dialect.name], {"sagas": keys})}
    found = {key: _open(row, reused=not _same_content(given[key], row, catalog)) for key, row in met.items()}
    missing = [opening for key, opening in given.items() if key not in found]
    return found | await open_sagas(connection, missing, catalog, begins=False) if missing else found


async def lock_saga(connection: AsyncConnection, opening: Opening, catalog: Catalog) -> OpenSaga | Outcome | Reused:
    """A saga's row, locked for a transition (written first, if nobody has), or what leaves none to make."""
    row = (await open_sagas(connection, [opening], catalog, begins=False))[opening.saga.id]
    if row.reused:
        return Reused()
    return row if row.outcome is None else Outcome.model_validate_json(row.outcome)


_UNFINISHED = (Phase.FORWARD.value, Phase.UNDOING.value)


_BEGIN = (
    update(saga)
    .where(saga.c.id == bindparam("begun"))
    .values(drives=saga.c.drives + 1, owner_workflow_id=bindparam("owner"), owner_first_run_id=bindparam("first_run"))
)
_GIVEN = {
    "id": "uuid",
    "orchestrator": "text",
    "event_id": "text",
    "envelope": "text",
    "event_type": "text",
    "event_version": "integer",
    "content_digest": "text",
    "definition_digest": "text",
    "ordering_key": "text",
    "lock_keys": "text",
    "owner_workflow_id": "text",
    "owner_first_run_id": "text",
    "drives": "integer",
}
_TYPED = ", ".join(f"{name} {kind}" for name, kind in _GIVEN.items())
_SOURCES = {
    "postgresql": (
        ", ".join(_GIVEN),
        f"json_to_recordset(CAST(:rows AS json)) AS given({_TYPED})",
    ),
    "sqlite": (", ".join(f"json_extract(given.value, '$.{name}')" for name in _GIVEN), "json_each(:rows) AS given"),
}
# A saga with locks begins once it has them: see `_with_locks`. Until then who waits owns it only if nobody does, or if
# its owner's next execution takes it over.
_OWNS = (
    "saga.lock_keys IS NULL OR coalesce(saga.owner_workflow_id, '') IN ('', coalesce(excluded.owner_workflow_id, ''))"
)
_BEGINS = (
    ", drives = CASE WHEN saga.lock_keys IS NULL THEN saga.drives + 1 ELSE saga.drives END"
    f", owner_workflow_id = CASE WHEN {_OWNS} THEN excluded.owner_workflow_id ELSE saga.owner_workflow_id END"
    f", owner_first_run_id = CASE WHEN {_OWNS} THEN excluded.owner_first_run_id ELSE saga.owner_first_run_id END"
)


def _upsert(dialect: str, *, begins: bool) -> Any:
    """One text for any number of sagas, so that it is prepared once."""
    columns, source = _SOURCES[dialect]
    now = clock.NOW_AS_TEXT[dialect]
    statement = (
        f"INSERT INTO saga ({', '.join(_GIVEN)}, phase, progressed_at, created_at) "  # noqa: S608
        f"SELECT {columns}, 'forward', {now}, {now} FROM {source} WHERE true ORDER BY 1 "
        f"ON CONFLICT (id) DO UPDATE SET progressed_at = excluded.progressed_at{_BEGINS if begins else ''} "
        "WHERE saga.phase IN ('forward', 'undoing') AND saga.content_digest = excluded.content_digest "
        f"RETURNING {', '.join(column.name for column in _COLUMNS)}, {now} AS seen_at"
    )
    return text(statement).bindparams(bindparam("rows", type_=Text())).columns(*_COLUMNS, column("seen_at", UtcTime()))


_UPSERTS = {
    (dialect, begins): _upsert(dialect, begins=begins)
    for dialect in ("postgresql", "sqlite")
    for begins in (False, True)
}


def _lock(dialect: str, locking: str) -> Any:
    columns = f"{', '.join(column.name for column in _COLUMNS)}, {clock.NOW_AS_TEXT[dialect]} AS seen_at"
    statement = f"SELECT {columns} FROM saga WHERE id IN {OF_SAGAS[dialect]} ORDER BY id{locking}"  # noqa: S608
    return text(statement).bindparams(bindparam("sagas", type_=Text())).columns(*_COLUMNS, column("seen_at", UtcTime()))


_LOCKS = {
    "postgresql": _lock("postgresql", " FOR UPDATE"),
    "sqlite": _lock("sqlite", ""),  # its transaction is the only one that writes
}


async def _row(connection: AsyncConnection, key: UUID) -> Any:
    return (await connection.execute(_READ.where(saga.c.id == key))).one()


def _values(connection: AsyncConnection, opening: Opening, catalog: Catalog) -> dict[str, Any]:
    envelope = read(opening.envelope)
    key = opening.saga.id
    values = {
        "id": key.hex if connection.dialect.name == "sqlite" else str(key),
        "orchestrator": opening.saga.orchestrator,
        "event_id": envelope.event_id,
        "envelope": opening.envelope,
        "event_type": envelope.event_type,
        "event_version": envelope.version,
        "content_digest": envelope.content_digest,
        "definition_digest": catalog.definition_digest(opening.saga.orchestrator),
        "ordering_key": opening.ordering_key,
        "lock_keys": json.dumps(opening.lock_keys) if opening.lock_keys else None,
        "owner_workflow_id": opening.owner_workflow_id,
        "owner_first_run_id": opening.owner_first_run_id,
        "drives": 0 if opening.lock_keys else 1,
    }
    return {name: values[name] for name in _GIVEN}


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
        seen_at=row.seen_at,
        drives=row.drives,
        lock_keys=tuple(json.loads(row.lock_keys)) if row.lock_keys else (),
        reused=reused,
    )


def _same_content(opening: Opening, row: Any, catalog: Catalog) -> bool:
    given = read(opening.envelope)
    if given.content_digest == row.content_digest:
        return True
    if row.purged_at is not None:
        return False  # with what, is not known any more: to take something else for a repeat would lose it in silence
    known = read(row.envelope)
    # Digests are of what was sent. A newer contract may write a default that an older one left out.
    requests = catalog.orchestrators[opening.saga.orchestrator].requests
    same: Callable[[Any], Any] = lambda envelope: unwrap(envelope, *requests)  # noqa: E731
    try:
        return bool(same(given) == same(known))
    except UnreadableEvent:
        return False
