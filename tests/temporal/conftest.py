"""What tests with a server may use beside a house."""

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
    """No grace time, unless a test says so."""
    monkeypatch.setenv("ORCHESTRATOR_RECOVERY_GRACE", "0")


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Generator[Stops]:
    """Lets a test stop sagas between their transactions."""
    stops = Stops()

    def stopping(name: str, what: Callable[[Any], str]) -> None:
        does = getattr(StoreSteps, name)

        async def do(self: StoreSteps, command: Any, *args: Any, **options: Any) -> Any:
            ref = command.saga if hasattr(command, "saga") else command.opening.saga
            await stops.come_to(what(command), ref.event_id)
            return await does(self, command, *args, **options)

        monkeypatch.setattr(StoreSteps, name, do)

    stopping("run", lambda command: f"step {command.number}")
    stopping("undo", lambda command: f"undo {command.number}")
    stopping("finish", lambda command: "finish")
    yield stops
    stops.open_all()


@pytest.fixture
async def idle(database: Database, client: Client) -> AsyncGenerator[House]:
    """A house without a worker."""
    async with open_house(client, database, CATALOG, task_queue=f"idle-{uuid4()}", working=False) as made:
        yield made
