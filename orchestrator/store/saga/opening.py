"""Opening a saga: the only place where a saga's row is written for the first time, or found again.

The row is written by an upsert that carries the envelope, so a saga can be cancelled, refused or finished before any
step has opened it. The upsert leaves the row locked unless the saga has ended; a saga that has ended is not written
again.
"""

import json
from collections.abc import Mapping, Sequence
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
from orchestrator.protocol.messages.envelope import Envelope, read
from orchestrator.protocol.messages.unwrapping import is_same_event
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
    saga.c.details,
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
    """The saga was opened before by the same event with another time."""

    def __init__(self, envelope: str) -> None:
        self.envelope = envelope
        super().__init__()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSaga:
    """A saga's row as the deciding statement saw it."""

    id: UUID
    phase: Phase
    reason: Phase | None
    """The phase in which an undoing saga ends."""
    error_code: str | None
    message: str | None
    details: str | None
    """The refusal's details as JSON, if it has any."""
    outcome: str | None
    """The outcome as JSON, once the saga has ended."""
    envelope: str
    content_digest: str
    created_at: datetime
    seen_at: datetime = field(compare=False)
    """When the row was read, by the same database clock that wrote `created_at`."""
    drives: int
    """How many drivers have begun the saga, not counting those that only waited for its locks."""
    lock_keys: tuple[str, ...]
    reused: bool
    """Whether the row belongs to another event with the same id; then nothing was changed."""
    blocked_by: tuple[Blocker, ...] = ()
    """The sagas that it waits for; only filled in by an opening with `draws`."""
    _read: float = field(default_factory=monotonic, compare=False)

    @property
    def age(self) -> timedelta:
        """How long ago the saga was opened, regardless of this worker's clock."""
        return self.seen_at - self.created_at + timedelta(seconds=monotonic() - self._read)


@dataclass(frozen=True, slots=True)
class SagaToOpen:
    """A saga to open: the opening with its event, which is read once."""

    opening: Opening
    event: Envelope

    @classmethod
    def of(cls, opening: Opening) -> "SagaToOpen":
        """Read the event of an opening.

        Raises:
            UnreadableEvent: its envelope cannot be read.
        """
        return cls(opening, read(opening.envelope))

    def values(self, connection: AsyncConnection, catalog: Catalog) -> dict[str, Any]:
        """Return the columns of a new row."""
        opening, event = self.opening, self.event
        key = opening.saga.id
        values = {
            "id": key.hex if connection.dialect.name == "sqlite" else str(key),
            "orchestrator": opening.saga.orchestrator,
            "event_id": event.event_id,
            "envelope": opening.envelope,
            "event_type": event.event_type,
            "event_version": event.version,
            "content_digest": event.content_digest,
            "definition_digest": catalog.definition_digest(opening.saga.orchestrator),
            "ordering_key": opening.ordering_key,
            "lock_keys": json.dumps(opening.lock_keys) if opening.lock_keys else None,
            "owner_workflow_id": opening.owner_workflow_id,
            "owner_first_run_id": opening.owner_first_run_id,
            "drives": 0 if opening.lock_keys else 1,
        }
        return {name: values[name] for name in _TYPES}

    def is_recorded_in(self, row: Any, catalog: Catalog) -> bool:
        """Whether a row was written for the same event, and not for another one with the same id."""
        requests = catalog.orchestrators[self.opening.saga.orchestrator].requests
        return is_same_event(self.event, row.content_digest, row.envelope, *requests)


def insert_into(connection: AsyncConnection, table: Any) -> Any:
    """Return the dialect's own INSERT, which supports ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


async def open_sagas(
    connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog, *, begins: bool, draws: bool = False
) -> dict[UUID, OpenSaga]:
    """Write each saga's row, or lock the existing one.

    Args:
        connection: in the transaction that makes the decision.
        openings: one to fifty sagas, in the order of arrival. Rows are locked in the order of their ids, so that two
            callers cannot deadlock.
        catalog: decides whether two envelopes have the same content.
        begins: whether a driver begins the sagas: unless a saga waits for locks, the driver becomes its owner and
            `drives` is increased. Implies `draws`.
        draws: whether to draw tickets for sagas that go forward and have none, and to fill in `blocked_by`.

    Returns:
        Each saga by its id.
    """
    sagas = [SagaToOpen.of(opening) for opening in openings]
    return await _open_sagas(connection, sagas, catalog, begins=begins, draws=begins or draws)


async def _open_sagas(
    connection: AsyncConnection, sagas: Sequence[SagaToOpen], catalog: Catalog, *, begins: bool, draws: bool
) -> dict[UUID, OpenSaga]:
    by_id = {new.opening.saga.id: new for new in sagas}
    rows = [new.values(connection, catalog) for new in by_id.values()]
    statement = _UPSERTS[connection.dialect.name, begins]
    upserted = (await connection.execute(statement, {"rows": json.dumps(rows)})).all()
    opened = {row.id: _open_saga(row, reused=False) for row in upserted}
    # The upsert leaves out sagas that have ended and rows with other content, so read these.
    missing = [key for key in sorted(by_id) if key not in opened]
    if missing:
        existing = {row.id: row for row in await connection.execute(_READ.where(saga.c.id.in_(missing)))}
        for key in missing:
            row = existing[key]
            reused = not by_id[key].is_recorded_in(row, catalog)
            if not reused and not Phase(row.phase).is_final:
                # The same event, written under an older contract version: adopt the row, which this update locks.
                statement = update(saga).where(saga.c.id == key, saga.c.phase.in_(_UNFINISHED))
                touched = statement.values(progressed_at=clock.now()).returning(*_COLUMNS, _SEEN_AT)
                row = (await connection.execute(touched)).first() or await _row(connection, key)
            opened[key] = _open_saga(row, reused=reused)
    if catalog.shared:
        # A row that this statement has inserted has the statement's time in both columns.
        new = [by_id[row.id].opening for row in upserted if row.created_at == row.progressed_at]
        await forward(connection, new, catalog)
    locking = [opened[key] for key in by_id if opened[key].lock_keys and not opened[key].reused]
    if locking and draws:
        opened |= await _with_locks(connection, locking, by_id, begins=begins)
    return opened


async def _with_locks(
    connection: AsyncConnection, sagas: Sequence[OpenSaga], by_id: Mapping[UUID, SagaToOpen], *, begins: bool
) -> dict[UUID, OpenSaga]:
    """Draw tickets for sagas that have lock keys; return the sagas with the sagas they wait for, by id."""
    forward = [row for row in sagas if row.phase is Phase.FORWARD]
    blocked: Mapping[UUID, tuple[Blocker, ...]] = {}
    if forward:
        # Use the keys on the row, because the orchestrator's `locks` may return others by now.
        await draw(connection, {row.id: row.lock_keys for row in forward})
        blocked = await blockers(connection, [row.id for row in forward])
    begun = [row for row in sagas if begins and row.id not in blocked and not row.phase.is_final]
    if begun:
        owners = [
            {
                "begun": row.id,
                "owner": by_id[row.id].opening.owner_workflow_id,
                "first_run": by_id[row.id].opening.owner_first_run_id,
            }
            for row in sorted(begun, key=lambda row: row.id)
        ]
        await connection.execute(_BEGIN, owners)
    drives = {row.id: row.drives + 1 for row in begun}
    return {
        row.id: replace(row, blocked_by=blocked.get(row.id, ()), drives=drives.get(row.id, row.drives)) for row in sagas
    }


async def begin_saga(
    connection: AsyncConnection, opening: Opening, catalog: Catalog, *, begins: bool
) -> Decided | Reused | Expired | Blocked | None:
    """Open a saga for a driver's first step and draw its tickets; return what prevents the step, or None.

    Raises:
        OpenedBefore: the saga was opened by the same event with another time. It is raised and not returned, so that
            this opening is rolled back.
    """
    new = SagaToOpen.of(opening)
    row = (await _open_sagas(connection, [new], catalog, begins=begins, draws=True))[opening.saga.id]
    if row.reused:
        return Reused()
    if row.phase is not Phase.FORWARD:
        return Decided(phase=row.phase)
    if row.envelope != opening.envelope and read(row.envelope).time != new.event.time:
        raise OpenedBefore(row.envelope)
    if opening.deadline is not None and row.age.total_seconds() > opening.deadline:
        return Expired()
    return Blocked(by=row.blocked_by) if row.blocked_by else None


async def lock_sagas(
    connection: AsyncConnection, openings: Sequence[Opening], catalog: Catalog
) -> dict[UUID, OpenSaga]:
    """Lock the rows of sagas for a transition, like `open_sagas`, for callers that expect nearly all rows to exist.

    Existing rows are locked but not written, because each new version of a row costs PostgreSQL an entry in each index.
    """
    by_id = {opening.saga.id: SagaToOpen.of(opening) for opening in openings}
    keys = ids_as_json(connection.dialect.name, by_id)
    existing = {row.id: row for row in await connection.execute(_LOCKS[connection.dialect.name], {"sagas": keys})}
    locked = {key: _open_saga(row, reused=not by_id[key].is_recorded_in(row, catalog)) for key, row in existing.items()}
    missing = [new for key, new in by_id.items() if key not in locked]
    if missing:
        locked |= await _open_sagas(connection, missing, catalog, begins=False, draws=False)
    return locked


async def lock_saga(connection: AsyncConnection, opening: Opening, catalog: Catalog) -> OpenSaga | Outcome | Reused:
    """Lock a saga's row for a transition, writing it if it is new; if no transition is possible, return the reason."""
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
_TYPES = {
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
_TYPED = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
_SOURCES = {
    "postgresql": (
        ", ".join(_TYPES),
        f"json_to_recordset(CAST(:rows AS json)) AS given({_TYPED})",
    ),
    "sqlite": (", ".join(f"json_extract(given.value, '$.{name}')" for name in _TYPES), "json_each(:rows) AS given"),
}
# A saga with locks begins once it holds them (see `_with_locks`). Until then a waiting execution becomes the owner only
# if there is none, or if it is the owner's next execution.
_OWNS = (
    "saga.lock_keys IS NULL OR coalesce(saga.owner_workflow_id, '') IN ('', coalesce(excluded.owner_workflow_id, ''))"
)
_BEGINS = (
    ", drives = CASE WHEN saga.lock_keys IS NULL THEN saga.drives + 1 ELSE saga.drives END"
    f", owner_workflow_id = CASE WHEN {_OWNS} THEN excluded.owner_workflow_id ELSE saga.owner_workflow_id END"
    f", owner_first_run_id = CASE WHEN {_OWNS} THEN excluded.owner_first_run_id ELSE saga.owner_first_run_id END"
)


def _upsert(dialect: str, *, begins: bool) -> Any:
    """Build one text for any number of sagas, so that the statement is prepared once."""
    columns, source = _SOURCES[dialect]
    now = clock.NOW_AS_TEXT[dialect]
    statement = (
        f"INSERT INTO saga ({', '.join(_TYPES)}, phase, progressed_at, created_at) "  # noqa: S608
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
    "sqlite": _lock("sqlite", ""),  # the transaction is the only one that writes
}


async def _row(connection: AsyncConnection, key: UUID) -> Any:
    return (await connection.execute(_READ.where(saga.c.id == key))).one()


def _open_saga(row: Any, *, reused: bool) -> OpenSaga:
    return OpenSaga(
        id=row.id,
        phase=Phase(row.phase),
        reason=None if row.reason is None else Phase(row.reason),
        error_code=row.error_code,
        message=row.message,
        details=row.details,
        outcome=row.outcome,
        envelope=row.envelope,
        content_digest=row.content_digest,
        created_at=row.created_at,
        seen_at=row.seen_at,
        drives=row.drives,
        lock_keys=tuple(json.loads(row.lock_keys)) if row.lock_keys else (),
        reused=reused,
    )
