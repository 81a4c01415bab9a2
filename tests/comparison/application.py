"""The application's side of the comparison: it drives events to their outcome in this process and reads its tables."""

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
from orchestrator.protocol.messages.envelope import wrap
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
_POLL_INTERVAL = 0.01
"""Seconds after which a saga that waits for a lock polls."""


class Fault:
    """One step that is given up once: before its transaction, or after it with the reply lost.

    Args:
        step: the step's number.
        where: whether it is given up before or after its transaction.
    """

    def __init__(self, step: int, where: Where) -> None:
        self.step = step
        self.where: Where = where
        self.has_hit = False

    def strike(self, step: int, where: Where) -> None:
        """Give up the step if the driver is at the fault's point for the first time."""
        if (step, where) == (self.step, self.where) and not self.has_hit:
            self.has_hit = True
            raise StepFailed(f"the test has step {step} fail {where} its transaction")

    def __repr__(self) -> str:
        return f"Fault({self.step}, {self.where!r})"


class _Steps(StoreSteps):
    """The store's port with an optional fault. It yields to other sagas between transactions, a random number of times.

    Args:
        database: the application's database.
        random: decides when to yield, so the same seed gives the same interleaving.
        fault: the fault of one step, or None.
    """

    _ending = asyncio.Event()
    """Set when a saga has ended, so that sagas that wait for a lock try again."""

    def __init__(self, database: Database, random: Random, fault: Fault | None) -> None:
        super().__init__(database, CATALOG)
        self._random = random
        self._fault = fault

    async def _yield_to_others(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        await self._yield_to_others()
        if self._fault is not None:
            self._fault.strike(command.number, "before")
        reply = await super().run(command, deadline, attempt=attempt)
        if self._fault is not None:
            self._fault.strike(command.number, "after")
        return reply

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        await self._yield_to_others()
        return await super().begin_undo(command)

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        await self._yield_to_others()
        return await super().undo(command, compensation)

    async def finish(self, command: FinishCommand) -> FinishReply:
        await self._yield_to_others()
        reply = await super().finish(command)
        _Steps._ending.set()
        _Steps._ending = asyncio.Event()
        return reply

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Wait until a saga ends; only briefly, because it may just have ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_Steps._ending.wait(), _POLL_INTERVAL)


class Application:
    """A database with the application's tables, and drivers in this process. Use it as a context manager.

    It awaits everything on its own event loop, so that its caller need not be asynchronous.
    """

    def __init__(self) -> None:
        # In memory if possible, because no test cuts the power.
        shared = Path("/dev/shm")
        parent = shared if os.access(shared, os.W_OK) else None
        self._folder = TemporaryDirectory(prefix="comparison-", dir=parent)
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
        """Await something on this object's event loop."""
        return self._runner.run(work)

    async def _create(self) -> None:
        await migrate(self.database)
        async with self.database.transaction() as connection:
            await create_tables(connection)

    async def clear(self) -> None:
        """Delete every row of every table."""
        self._events = 0
        async with self.database.transaction() as connection:
            for table in (*_ENGINE_TABLES, *reversed(APPLICATION_TABLES)):
                await connection.execute(delete(table))

    async def insert(self, table: Table, *rows: Row) -> None:
        """Insert rows that no event creates."""
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
        random = Random(self._events)  # so that a repeated story has the same interleaving
        outcome: Outcome = await Driver(orchestrator, event, envelope, _Steps(self.database, random, fault)).drive()
        return outcome.error_code or ("completed" if outcome.phase is Phase.COMPLETED else outcome.phase)

    async def tables(self) -> dict[str, list[Row]]:
        """Read every row of every application table."""
        async with self.database.reading() as connection:
            return {
                table.name: [dict(row) for row in (await connection.execute(select(table))).mappings()]
                for table in APPLICATION_TABLES
            }

    async def open_sagas(self) -> list[str]:
        """Return the event ids of sagas without an outcome."""
        unfinished = select(saga.c.event_id).where(saga.c.phase.in_((Phase.FORWARD, Phase.UNDOING)))
        async with self.database.reading() as connection:
            return list(await connection.scalars(unfinished))
