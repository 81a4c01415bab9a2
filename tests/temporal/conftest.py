"""Fixtures of tests with a Temporal server."""

from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator.store.core.database import Database
from orchestrator.store.saga.steps import StoreSteps
from tests.house import CATALOG, House, open_house
from tests.temporal.recovering import (
    Stops,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set recovery's grace time to zero; a test may set another one."""
    monkeypatch.setenv("ORCHESTRATOR_RECOVERY_GRACE", "0")


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Generator[Stops]:
    """Lets a test stop sagas between their transactions."""
    stops = Stops()

    def stopping(name: str, what: Callable[[Any], str]) -> None:
        original = getattr(StoreSteps, name)

        async def run_unless_stopped(self: StoreSteps, command: Any, *args: Any, **options: Any) -> Any:
            ref = command.saga if hasattr(command, "saga") else command.opening.saga
            await stops.wait_at(what(command), ref.event_id)
            return await original(self, command, *args, **options)

        monkeypatch.setattr(StoreSteps, name, run_unless_stopped)

    stopping("run", lambda command: f"step {command.number}")
    stopping("undo", lambda command: f"undo {command.number}")
    stopping("finish", lambda command: "finish")
    yield stops
    stops.open_all()


@pytest.fixture
async def idle(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application without a worker."""
    async with open_house(client, database, CATALOG, task_queue=f"idle-{uuid4()}", working=False) as opened:
        yield opened
