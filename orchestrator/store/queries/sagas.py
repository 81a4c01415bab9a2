"""Read-only queries about sagas, for display.

This module uses only SQL. The reason why a saga is not finished also depends on Temporal, so the caller determines it.
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
from orchestrator.protocol.commands import Blocker, Phase, StepState
from orchestrator.settings import command_to_start
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import IS_UNDONE, IS_UNFINISHED, saga, saga_meta, saga_step
from orchestrator.store.locks import blockers, waiting
from orchestrator.store.saga.step_rows import UndoPredicates


class NoTables(Unreachable):
    """The database is reachable or could be created, but no worker has run on it yet, so it has no tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView(UndoPredicates):
    """One recorded step of a saga."""

    number: int
    operation: str
    kind: str
    state: StepState
    database: str
    """The database in which the step is done: `home`, or the name of a remote one."""
    attempts: int
    """The number of the recorded attempt; failed attempts leave no row."""
    error: str | None
    """JSON with `code` and `message`, if the step was refused."""
    undo_attempts: int
    undo_error: str | None
    """The error that the last failed attempt to undo the step raised."""
    skipped_by: str | None
    skip_reason: str | None
    irreversible: bool
    """Whether the saga cannot be undone once the step is done."""
    arguments: str
    """The arguments as JSON. May be personal."""
    result: str | None
    """The result as JSON. May be personal."""
    created_at: datetime
    undone_at: datetime | None

    @property
    def shown(self) -> str:
        """The operation's name, for display; for an atomic step, the names of its operations."""
        return named(self.operation, json.loads(self.arguments))
        return self.kind == "external" and self.state is StepState.ATTEMPTING


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaView:
    """One saga's row, with its steps in order if they were requested."""

    id: UUID
    orchestrator: str
    event_id: str
    event_type: str
    envelope: str
    """The event as it arrived. May be personal."""
    phase: Phase
    ends_as: Phase | None
    """The phase in which an undoing saga will end."""
    error_code: str | None
    message: str | None
    ended_by: str | None
    """The user or component that ended the saga, unless it ended by itself."""
    pivot_step: int | None
    """The number of the pivot, if an attempt to undo the saga has found one."""
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
    """When the saga's steps and payload were deleted."""
    steps: tuple[StepView, ...] = ()
    is_waiting: bool = False
    """Whether the saga has not begun because another saga holds one of its locks."""
    blocked_by: tuple[Blocker, ...] = ()
    """The sagas that it waits for, by key, if they were requested."""

    @property
    def is_stuck(self) -> bool:
        """Whether the saga is stuck and needs an operator."""
        return self.stuck_step is not None and not self.phase.is_final

    @property
    def pivot(self) -> int | None:
        """The number of the first step that is done and cannot be undone; from there on the saga only goes forward."""
        past = (step.number for step in self.steps if step.is_past_undoing)
        return self.pivot_step if self.pivot_step is not None else next(past, None)


async def sagas_of_event(database: Database, event_id: str) -> Sequence[SagaView]:
    """Return the sagas that an event started, by orchestrator, with their steps and the sagas they wait for.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    async with reading(database) as connection:
        rows = (
            await connection.execute(select(saga).where(saga.c.event_id == event_id).order_by(saga.c.orchestrator))
        ).all()
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
    """A saga's position in the list, newest first; the next page is read after a position, not by page number."""

    created_at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.created_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{self.id.hex}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read a position that `str` wrote.

        Raises:
            ValueError: the text is not a position.
        """
        moment, _, key = text.rpartition("-")
        return cls(datetime.strptime(moment, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC), UUID(hex=key))


class Counts(dict[Phase, int]):
    """The number of sagas in each phase; every phase is a key. At most `COUNTED` ended sagas are counted."""

    newest: int | None = None
    """Among how many of the newest sagas the ended ones were counted; None if among all."""


async def list_sagas(
    database: Database,
    *,
    phase: Phase | None = None,
    orchestrator: str | None = None,
    stuck: bool = False,
    limit: int = 20,
    after: Position | None = None,
) -> Sequence[SagaView]:
    """Return sagas without their steps, the newest first.

    Args:
        database: the home database.
        phase: only sagas in this phase.
        orchestrator: only sagas of this orchestrator.
        stuck: only stuck sagas, which wait for an operator.
        limit: the maximum number of sagas.
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
        # The first term follows from the second. It is in a form that lets the database start its index scan there.
        same_moment = and_(saga.c.created_at == after.created_at, saga.c.id > after.id)
        statement = statement.where(
            saga.c.created_at <= after.created_at, or_(saga.c.created_at < after.created_at, same_moment)
        )
    async with reading(database) as connection:
        rows = (await connection.execute(statement)).all()
        in_line = await waiting(connection, _in_line(rows))
    return [_saga(row, is_waiting=row.id in in_line) for row in rows]


async def sagas_by_id(database: Database, ids: Sequence[UUID]) -> Sequence[SagaView]:
    """Return the sagas with these ids, without their steps.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    async with reading(database) as connection:
        return [_saga(row) for row in await connection.execute(select(saga).where(saga.c.id.in_(ids)))]


def _words_of_index(phase: Phase) -> Sequence[TextClause]:
    """Return the condition of the partial index that covers a phase, so that the index is used."""
    if not phase.is_final:
        return (IS_UNFINISHED,)
    return () if phase is Phase.COMPLETED else (IS_UNDONE,)


COUNTED = 10_000
"""Ended sagas are counted among this many of the newest ones, because counting all takes longer as the table grows."""
_COUNTED_OPEN = 100_000
"""The maximum number of unfinished sagas that are counted."""


async def counts(database: Database, *, orchestrator: str | None = None) -> Counts:
    """Count the sagas in each phase: all unfinished ones, and the ended ones among the newest.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    of_orchestrator = () if orchestrator is None else (saga.c.orchestrator == orchestrator,)
    newest = select(saga.c.phase).where(*of_orchestrator).order_by(saga.c.created_at.desc()).limit(COUNTED).subquery()
    unfinished = select(saga.c.phase).where(IS_UNFINISHED, *of_orchestrator).limit(_COUNTED_OPEN).subquery()
    counted = Counts(dict.fromkeys(Phase, 0))
    async with reading(database) as connection:
        for selection in (newest, unfinished):
            by_phase = select(selection.c.phase, func.count()).group_by(selection.c.phase)
            counted |= {Phase(phase): number for phase, number in await connection.execute(by_phase)}
            if selection is newest and sum(counted.values()) >= COUNTED:
                counted.newest = COUNTED
    return counted


async def namespace_of(database: Database) -> str | None:
    """Return the Temporal namespace to which this database belongs; None if no worker has recorded one.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    async with reading(database) as connection:
        return await connection.scalar(select(saga_meta.c.temporal_namespace))


@asynccontextmanager
async def reading(database: Database) -> AsyncGenerator[AsyncConnection]:
    """Open a connection for reading, on a database on which a worker has run.

    Raises:
        NoTables: no worker has run on it.
        Unreachable: it cannot be reached.
    """
    missing = NoTables(
        f"The database at {database.shown} holds no sagas yet: no worker has run on it. "
        f"Start one (`{command_to_start('worker')}`), or set ORCHESTRATOR_DATABASE_URL to the right database."
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
    """Whether connecting would create the file of this SQLite database."""
    return database.dialect == "sqlite" and not Path(database.url.database or "").is_file()


def _has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table(saga_meta.name)


def _in_line(rows: Sequence[Row[Any]]) -> list[UUID]:
    """Return the sagas that may wait for a lock; an undoing saga does not wait, it only releases its tickets."""
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
