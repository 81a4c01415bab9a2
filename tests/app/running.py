"""SmartExpense with a running worker, and what its sagas leave in the engine's tables."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.client import Client

from orchestrator import DomainEvent, FailureEvent, SagaFailed
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from orchestrator.worker.search_attributes import ensure_search_attributes
from starter.seed import open_account, seed
from tests.app.books import Books
from tests.app.scenarios import CASH, CATALOG
from tests.closing import ClosingBus
from tests.house import House, new_id, worker_client

_SOON = timedelta(seconds=20)
"""Much longer than any of these sagas takes."""


class RunningBooks(Books):
    """Books with a worker, and a bus that sends events to it."""

    def __init__(self, house: House) -> None:
        super().__init__(house.database)
        self.house = house

    async def completes(
        self, orchestrator: AnyOrchestrator, event: DomainEvent, *, event_id: str | None = None
    ) -> DomainEvent:
        """Publish an event and return the completed event."""
        completed: DomainEvent = await self.house.bus.execute(
            orchestrator, event, event_id=event_id or new_id(), timeout=_SOON
        )
        return completed

    async def fails(
        self, orchestrator: AnyOrchestrator, event: DomainEvent, *, event_id: str | None = None
    ) -> FailureEvent:
        """Publish an event and return the failed event.

        Raises:
            AssertionError: the saga completed.
        """
        try:
            completed = await self.completes(orchestrator, event, event_id=event_id)
        except SagaFailed as fault:
            return fault.failure
        raise AssertionError(f"the saga completed: {completed!r}")

    async def ended(self, orchestrator: AnyOrchestrator, event_id: str) -> "Ended":
        """Read what a saga that has ended left behind.

        Raises:
            ValueError: it does not have exactly one row and one event in the outbox.
        """
        key = saga_id(orchestrator.__name__, event_id)
        [row] = [row for row in await self.house.sagas() if row.id == key]
        [sent] = [sent for sent in await self.house.outbox() if sent.saga_id == key]
        return Ended(row, [step for step in await self.house.steps() if step.saga_id == key], json.loads(sent.envelope))


class Ended:
    """The rows of a saga that has ended."""

    def __init__(self, row: Any, steps: list[Any], sent: dict[str, Any]) -> None:
        self.phase: str = row.phase
        self.outcome: dict[str, Any] = json.loads(row.outcome)
        self.is_stuck: bool = row.stuck_step is not None
        self.steps: list[tuple[int, str, str]] = [(step.number, step.operation, step.state) for step in steps]
        self.attempts: dict[str, int] = {step.operation: step.attempts for step in steps}
        self.undo_attempts: dict[str, int] = {step.operation: step.undo_attempts for step in steps}
        self.sent = sent
        """The event in the outbox."""


@asynccontextmanager
async def open_books(client: Client, database: Database) -> AsyncGenerator[RunningBooks]:
    """Run a worker on SmartExpense with the demo's data and one more account."""
    async with database.transaction() as connection:
        await seed(connection)
        await open_account(connection, CASH)
    settings = Settings(task_queue=f"books-{uuid4()}", log_level="ERROR")
    manager = Manager(settings, catalog=CATALOG)
    await ensure_search_attributes(client)
    ready = Ready(worker_client(client), database, CATALOG)
    bus = ClosingBus(client, CATALOG, task_queue=settings.task_queue, database=database)
    async with manager.worker(ready):
        yield RunningBooks(House(client, database, CATALOG, bus, settings.task_queue, manager, ready))
