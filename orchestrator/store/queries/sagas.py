"""Reading sagas for a person: what the tables say, and nothing is changed or created by asking.

Knows SQL alone. Why a saga is not done takes Temporal, too: that is for whoever calls.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause, and_, func, inspect, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import named
from orchestrator.errors import Unreachable
from orchestrator.operation import HOME
from orchestrator.protocol.commands import Blocker, Phase, StepState
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import IS_UNDONE, IS_UNFINISHED, saga, saga_meta, saga_step
from orchestrator.store.locks import blockers, waiting


class NoTables(Unreachable):
    """The database is there, or could be, but no worker has ever run on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step of a saga, as recorded."""

    number: int
    operation: str
    kind: str
    state: StepState
    database: str
    """Where it is done; `home`, or the name of another."""
    attempts: int
    """The attempt that was recorded; one that failed leaves no row."""
    error: str | None
    """JSON with `code` and `message`, if the step was refused."""
    undo_attempts: int
    undo_error: str | None
    """What the last failed attempt to undo it raised."""
    skipped_by: str | None
    skip_reason: str | None
    irreversible: bool
    """Once it is done the saga is not undone any more."""
    arguments: str
    """JSON. May be personal."""
    result: str | None
    """JSON. May be personal."""
    created_at: datetime
    undone_at: datetime | None

    @property
    def shown(self) -> str:
        """What it runs, as people read it: an atomic step's operations."""
        return named(self.operation, json.loads(self.arguments))

    @property
    def is_past_undoing(self) -> bool:
        """Whether it is done, or outside may have been done, and cannot be undone."""
        return self.irreversible and (self.state is StepState.DONE or self._is_unknown)

    @property
    def is_to_undo(self) -> bool:
        """Whether its effect stands, or outside or in another database may stand, and would be taken back."""
        if self.irreversible or self.kind not in ("operation", "atomic", "external"):
            return False
        may_stand = self._is_unknown or (self.database != HOME and self.state is StepState.ATTEMPTING)
        return self.state is StepState.DONE or may_stand

    @property
    def _is_unknown(self) -> bool:
        return self.kind == "external" and self.state is StepState.ATTEMPTING


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaView:
    """One saga's row, with its steps in order where they were asked for."""

    id: UUID
    orchestrator: str
    event_id: str
    event_type: str
    envelope: str
    """The event as it arrived. May be personal."""
    phase: Phase
    ends_as: Phase | None
    """What an undoing saga will end as."""
    error_code: str | None
    message: str | None
    ended_by: str | None
    """Who ended it, if it was not the saga itself."""
    pivot_step: int | None
    """The step after which nothing is undone any more, once a turn has met it."""
    outcome: str | None
    """The outcome as JSON, once there is one. May be personal."""
    owner_workflow_id: str | None
    stuck_step: int | None
    stuck_error: str | None
    stuck_since: datetime | None
    created_at: datetime
    progressed_at: datetime
    finished_at: datetime | None
    purged_at: datetime | None = None
    """When its steps and its payload were deleted."""
    steps: tuple[StepView, ...] = ()
    is_waiting: bool = False
    """Whether it has not begun, for another saga holds one of its locks."""
    blocked_by: tuple[Blocker, ...] = ()
    """For whom it waits, by key, where that was asked for."""

    @property
    def is_stuck(self) -> bool:
        """Whether it waits for a person."""
        return self.stuck_step is not None and not self.phase.is_final

    @property
    def pivot(self) -> int | None:
        """The first step that cannot be undone and is done: from there on the saga only goes forward."""
        past = (step.number for step in self.steps if step.is_past_undoing)
        return self.pivot_step if self.pivot_step is not None else next(past, None)


async def sagas_of_event(database: Database, event_id: str) -> Sequence[SagaView]:
    """The sagas that an event started, by orchestrator, with their steps and for whom they wait.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    async with reading(database) as connection:
        found = await connection.execute(select(saga).where(saga.c.event_id == event_id).order_by(saga.c.orchestrator))
        rows = found.all()
        keys = [row.id for row in rows]
        steps = await connection.execute(
            select(saga_step).where(saga_step.c.saga_id.in_(keys)).order_by(saga_step.c.saga_id, saga_step.c.number)
        )
        of_saga: dict[UUID, list[StepView]] = {key: [] for key in keys}
        for step in steps:
            of_saga[step.saga_id].append(_step(step))
        blocked = await blockers(connection, _in_line(rows))
        return [_saga(row, tuple(of_saga[row.id]), blocked.get(row.id, ())) for row in rows]


@dataclass(frozen=True, slots=True)
class Position:
    """A saga's position in the list, which has the newest first. A page is read after a position, not by number."""

    created_at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.created_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{self.id.hex}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read what `str` wrote.

        Raises:
            ValueError: it is something else.
        """
        moment, _, key = text.rpartition("-")
        return cls(datetime.strptime(moment, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC), UUID(hex=key))


class Counts(dict[Phase, int]):
    """The number of sagas in each phase; every phase is a key. No more than `COUNTED` ended sagas are counted."""

    newest: int | None = None
    """Ended sagas are counted among so many of the newest sagas; None: among all."""


async def list_sagas(
    database: Database,
    *,
    phase: Phase | None = None,
    orchestrator: str | None = None,
    stuck: bool = False,
    limit: int = 20,
    after: Position | None = None,
) -> Sequence[SagaView]:
    """Sagas, the newest first, without their steps.

    Args:
        database: the home database.
        phase: only sagas in this phase.
        orchestrator: only sagas of this orchestrator.
        stuck: only sagas that wait for a person.
        limit: how many at most.
        after: the position of the last saga of the page before.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    statement = select(saga).order_by(saga.c.created_at.desc(), saga.c.id).limit(limit)
    if phase is not None:
        statement = statement.where(saga.c.phase == phase.value, *_words_of_index(phase))
    if orchestrator is not None:
        statement = statement.where(saga.c.orchestrator == orchestrator)
    if stuck:
        statement = statement.where(saga.c.stuck_step.is_not(None), IS_UNFINISHED)
    if after is not None:
        # The first term repeats the second in a form with which the index is entered at that position.
        same_moment = and_(saga.c.created_at == after.created_at, saga.c.id > after.id)
        statement = statement.where(
            saga.c.created_at <= after.created_at, or_(saga.c.created_at < after.created_at, same_moment)
        )
    async with reading(database) as connection:
        rows = (await connection.execute(statement)).all()
        in_line = await waiting(connection, _in_line(rows))
    return [_saga(row, is_waiting=row.id in in_line) for row in rows]


def _words_of_index(phase: Phase) -> Sequence[TextClause]:
    """The condition of the partial index that has the sagas of a phase."""
    if not phase.is_final:
        return (IS_UNFINISHED,)
    return () if phase is Phase.COMPLETED else (IS_UNDONE,)


COUNTED = 10_000
"""Newest sagas among which ended ones are counted: the table never shrinks, so counting all takes ever longer."""
_COUNTED_OPEN = 100_000
"""Unfinished sagas that are counted at most."""


async def counts(database: Database, *, orchestrator: str | None = None) -> Counts:
    """How many sagas are in each phase. Unfinished ones are counted wherever they are, ended ones among the newest.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    of_orchestrator = () if orchestrator is None else (saga.c.orchestrator == orchestrator,)
    newest = select(saga.c.phase).where(*of_orchestrator).order_by(saga.c.created_at.desc()).limit(COUNTED).subquery()
    unfinished = select(saga.c.phase).where(IS_UNFINISHED, *of_orchestrator).limit(_COUNTED_OPEN).subquery()
    found = Counts(dict.fromkeys(Phase, 0))
    async with reading(database) as connection:
        for some in (newest, unfinished):
            by_phase = select(some.c.phase, func.count()).group_by(some.c.phase)
            found |= {Phase(phase): number for phase, number in await connection.execute(by_phase)}
            if some is newest and sum(found.values()) >= COUNTED:
                found.newest = COUNTED
    return found


async def namespace_of(database: Database) -> str | None:
    """The Temporal namespace that this database belongs to, if a worker has written it.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    async with reading(database) as connection:
        return await connection.scalar(select(saga_meta.c.temporal_namespace))


@asynccontextmanager
async def reading(database: Database) -> AsyncGenerator[AsyncConnection]:
    """A connection for reading, on a database that workers use.

    Raises:
        NoTables: no worker has run on it.
        Unreachable: it cannot be reached.
    """
    missing = NoTables(
        f"The database at {database.shown} holds no sagas yet: no worker has run on it. "
        "Start one (`python worker.py`), or set ORCHESTRATOR_DATABASE_URL to the right database."
    )
    if _would_be_created(database):
        raise missing
    try:
        async with database.reading() as connection:
            if not await connection.run_sync(_has_tables):
                raise missing
            yield connection
    except (SQLAlchemyError, OSError) as fault:
        raise database.unreachable(fault) from fault


def _would_be_created(database: Database) -> bool:
    """Whether it is a SQLite file that a mere connection would create."""
    return database.dialect == "sqlite" and not Path(database.url.database or "").is_file()


def _has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table(saga_meta.name)


def _in_line(rows: Sequence[Row[Any]]) -> list[UUID]:
    """Those that may wait for a lock: who is undone only gives back its place."""
    return [row.id for row in rows if row.phase == Phase.FORWARD.value]


def _saga(
    row: Row[Any], steps: tuple[StepView, ...] = (), blocked_by: tuple[Blocker, ...] = (), *, is_waiting: bool = False
) -> SagaView:
    return SagaView(
        id=row.id,
        orchestrator=row.orchestrator,
        event_id=row.event_id,
        event_type=row.event_type,
        envelope=row.envelope,
        phase=Phase(row.phase),
        ends_as=Phase(row.reason) if row.reason else None,
        error_code=row.error_code,
        message=row.message,
        ended_by=row.ended_by,
        pivot_step=row.pivot_step,
        outcome=row.outcome,
        owner_workflow_id=row.owner_workflow_id,
        stuck_step=row.stuck_step,
        stuck_error=row.stuck_error,
        stuck_since=row.stuck_since,
        created_at=row.created_at,
        progressed_at=row.progressed_at,
        finished_at=row.finished_at,
        purged_at=row.purged_at,
        steps=steps,
        is_waiting=is_waiting or bool(blocked_by),
        blocked_by=blocked_by,
    )


def _step(row: Row[Any]) -> StepView:
    return StepView(
        number=row.number,
        operation=row.operation,
        kind=row.kind,
        state=StepState(row.state),
        database=row.database,
        attempts=row.attempts,
        error=row.error,
        undo_attempts=row.undo_attempts,
        undo_error=row.undo_error,
        skipped_by=row.skipped_by,
        skip_reason=row.skip_reason,
        irreversible=row.irreversible,
        arguments=row.arguments,
        result=row.result,
        created_at=row.created_at,
        undone_at=row.undone_at,
    )
