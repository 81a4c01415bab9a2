"""The application's side: events driven to their outcome in this process, and its tables as they stand."""

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from sqlalchemy import Table, delete, select

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.drive.driver import Driver
from orchestrator.drive.steps import StepFailed
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    Blocked,
    FinishCommand,
    FinishReply,
    Outcome,
    Phase,
    StepCommand,
    StepReply,
    UndoCommand,
    UndoReply,
)
from orchestrator.protocol.envelope import wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_lock, saga_outbox, saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.saga.steps import StoreSteps
from starter.tables import APPLICATION_TABLES, create_tables
from tests.comparison.inline import without_threads

R = TypeVar("R")
Row = Mapping[str, Any]
Where = Literal["before", "after"]

CATALOG = Catalog.discover(["events", "activities", "workflows"])
_ENGINE_TABLES: tuple[Table, ...] = (saga_lock, saga_outbox, saga_dead_letter, saga_step, saga)
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_LOOK = 0.01
"""Seconds after which a saga that waits for a lock looks by itself."""


class Fault:
    """One step that is given up once: before its transaction, or with its reply lost after it.

    Args:
        step: its number.
        where: on which side of the transaction.
    """

    def __init__(self, step: int, where: Where) -> None:
        self.step = step
        self.where: Where = where
        self.has_hit = False

    def strike(self, step: int, where: Where) -> None:
        """The driver is at a side of a step."""
        if (step, where) == (self.step, self.where) and not self.has_hit:
            self.has_hit = True
            raise StepFailed(f"the test has step {step} fail {where} its transaction")

    def __repr__(self) -> str:
        return f"Fault({self.step}, {self.where!r})"


class _Steps(StoreSteps):
    """The store's port, with a fault or none. Between two transactions others get their turn, some more than others.

    Args:
        database: where everything is.
        turns: who meets whom; the same numbers, the same meetings.
        fault: what befalls one step.
    """

    _ending = asyncio.Event()
    """Some saga has ended: whoever waits for a lock looks again."""

    def __init__(self, database: Database, turns: Random, fault: Fault | None) -> None:
        super().__init__(database, CATALOG)
        self._turns = turns
        self._fault = fault

    async def _let_others(self) -> None:
        for _ in range(self._turns.randrange(4)):
            await asyncio.sleep(0)

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """A step."""
        await self._let_others()
        if self._fault is not None:
            self._fault.strike(command.number, "before")
        reply = await super().run(command, deadline, attempt=attempt)
        if self._fault is not None:
            self._fault.strike(command.number, "after")
        return reply

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """The decision to undo."""
        await self._let_others()
        return await super().begin_undo(command)

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """A step's undoing."""
        await self._let_others()
        return await super().undo(command, compensation)

    async def finish(self, command: FinishCommand) -> FinishReply:
        """The outcome."""
        await self._let_others()
        reply = await super().finish(command)
        _Steps._ending.set()
        _Steps._ending = asyncio.Event()
        return reply

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Until a saga ends; it may just have, so not for long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_Steps._ending.wait(), _LOOK)


class Application:
    """A database with the application's tables, and drivers in this process. Use it as a context.

    What it awaits it awaits on a loop of its own, so that whoever plays is not asynchronous.
    """

    def __init__(self) -> None:
        # In memory where there is such a place: nobody cuts the power in a test.
        shared = Path("/dev/shm")
        place = shared if os.access(shared, os.W_OK) else None
        self._folder = TemporaryDirectory(prefix="comparison-", dir=place)
        self._runner = asyncio.Runner()
        self.database = Database(f"sqlite:///{Path(self._folder.name) / 'application.db'}")
        without_threads(self.database.engine)
        self._events = 0

    def __enter__(self) -> "Application":
        self.run(self._create())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.database.close())
        self._runner.close()
        self._folder.cleanup()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Await something on this side's loop."""
        return self._runner.run(work)

    async def _create(self) -> None:
        await migrate(self.database)
        async with self.database.transaction() as connection:
            await create_tables(connection)

    async def clear(self) -> None:
        """No row in any table."""
        self._events = 0
        async with self.database.transaction() as connection:
            for table in (*_ENGINE_TABLES, *reversed(APPLICATION_TABLES)):
                await connection.execute(delete(table))

    async def insert(self, table: Table, *rows: Row) -> None:
        """Write rows that no event leaves."""
        async with self.database.transaction() as connection:
            for row in rows:
                await connection.execute(table.insert().values(**row))

    async def play(
        self, orchestrator: AnyOrchestrator, event: DomainEvent, event_id: str, *, fault: Fault | None = None
    ) -> str:
        """Drive an event to its outcome.

        Returns:
            `completed`, or the error code.
        """
        self._events += 1
        envelope = wrap(
            event, event_id=event_id, source="comparison", time=_BEGINNING + timedelta(minutes=self._events)
        )
        turns = Random(self._events)  # so that a story that is told again goes the same way
        outcome: Outcome = await Driver(orchestrator, event, envelope, _Steps(self.database, turns, fault)).drive()
        return outcome.error_code or ("completed" if outcome.phase is Phase.COMPLETED else outcome.phase)

    async def tables(self) -> dict[str, list[Row]]:
        """Every row of every application table."""
        async with self.database.reading() as connection:
            return {
                table.name: [dict(row) for row in (await connection.execute(select(table))).mappings()]
                for table in APPLICATION_TABLES
            }

    async def open_sagas(self) -> list[str]:
        """Event ids of sagas that have no outcome."""
        unfinished = select(saga.c.event_id).where(saga.c.phase.in_((Phase.FORWARD, Phase.UNDOING)))
        async with self.database.reading() as connection:
            return list(await connection.scalars(unfinished))
