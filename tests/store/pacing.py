"""Two drivers of the same saga, each stopped at a point that the test chooses.

A point is before, inside or after one of a driver's transactions; *inside* means that its effect is written and not
committed. A context variable carries the driver's pacer, so that the cast's operations know which driver to stop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import text

from orchestrator import Transaction
from orchestrator.definition.catalog import Catalog
from orchestrator.drive.driver import Driver
from orchestrator.drive.steps import StepFailed
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    FinishCommand,
    FinishReply,
    StepCommand,
    StepReply,
    UndoCommand,
    UndoReply,
)
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.store.core.database import Database
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Script
from tests.house import CATALOG, eventually

R = TypeVar("R")
_pacer: ContextVar["Pacer | None"] = ContextVar("pacer", default=None)


class Pacer:
    """Stops its driver once, at one point."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.stop_at = stop_at
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.passed: list[str] = []

    async def at(self, point: str) -> None:
        """Record that the driver has reached a point; wait there if it is the point to stop at."""
        self.passed.append(point)
        if point == self.stop_at and not self.reached.is_set():
            self.reached.set()
            await self.go_on.wait()


class PacedSteps(StoreSteps):
    """The store's port, with a point before and after each transaction. A failing step is not retried."""

    def __init__(self, database: Database, catalog: Catalog, pacer: Pacer) -> None:
        super().__init__(database, catalog)
        self.pacer = pacer

    async def _paced(self, name: str, work: Callable[[], Awaitable[R]]) -> R:
        _pacer.set(self.pacer)
        await self.pacer.at(f"before {name}")
        result = await work()
        await self.pacer.at(f"after {name}")
        return result

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        try:
            return await self._paced(f"step {command.number}", lambda: super(PacedSteps, self).run(command, deadline))
        except RuntimeError as fault:
            raise StepFailed(str(fault)) from fault

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        return await self._paced("begin undo", lambda: super(PacedSteps, self).begin_undo(command))

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        return await self._paced(f"undo {command.number}", lambda: super(PacedSteps, self).undo(command, compensation))

    async def finish(self, command: FinishCommand) -> FinishReply:
        return await self._paced("finish", lambda: super(PacedSteps, self).finish(command))


def stop_inside_operations() -> None:
    """Add a point inside each operation and compensation of the cast."""
    inside = {"take": "step 1", "put": "step 2", "write_note": "step 3", "send_letter": "step 2"}
    inside |= {"give_back": "undo 1", "take_out": "undo 2", "tear_up": "undo 3"}
    for operation, name in inside.items():
        Script.after[operation] = _stopping(f"inside {name}")


def _stopping(point: str) -> Callable[[Transaction], Awaitable[None]]:
    async def stop(tx: Transaction) -> None:
        pacer = _pacer.get()
        if pacer is not None:
            await pacer.at(point)

    return stop


def driver_of(
    database: Database,
    orchestrator: type,
    event: DomainEvent,
    event_id: str,
    pacer: Pacer | None = None,
    *,
    time: datetime | None = None,
) -> Driver:
    """A driver that runs in this process and calls the database directly."""
    envelope = wrap(event, event_id=event_id, source="tests", time=time)
    return Driver(orchestrator, event, envelope, PacedSteps(database, CATALOG, pacer or Pacer()))


async def until_stopped(database: Database, pacer: Pacer, driving: asyncio.Task[R]) -> None:
    """Wait until a driver has reached its point, is done, or waits for a lock that another driver holds."""

    async def stopped() -> bool:
        return pacer.reached.is_set() or driving.done() or await waits_for_lock(database)

    await eventually(stopped, f"the driver reaches {pacer.stop_at}; it has passed {pacer.passed}")


async def waits_for_lock(database: Database) -> bool:
    """Whether any connection to this database waits for a lock right now."""
    return database.has_waiting_writers if database.dialect == "sqlite" else await how_many_wait(database) > 0


async def how_many_wait(database: Database) -> int:
    """Number of connections that wait for a lock in this PostgreSQL database."""
    async with database.reading() as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await connection.scalar(text(waiting)) or 0
