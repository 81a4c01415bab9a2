"""A worker with a second database of the other kind, configured by its environment."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator.client.bus import EventBus
from orchestrator.protocol.commands import Phase
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.worker.process.manager import Manager
from tests.cast import Script, fails, refuses, stock
from tests.closing import ClosingBus
from tests.conftest import Kind, new_database
from tests.house import rows
from tests.store.books import BOOKS, CATALOG, Booking, BookingRequested, coins_and_entries, tables


@dataclass
class Shop:
    """A bus and the databases of its worker."""

    bus: EventBus
    databases: Databases

    async def states(self) -> list[tuple[str, str]]:
        """The states of the steps in the books, each at home and in the other database, sorted."""
        at_home = {(row.saga_id, row.number): row.state for row in await rows(self.databases.home, saga_step)}
        in_books = await rows(self.databases.named(BOOKS), saga_step)
        return sorted((at_home[row.saga_id, row.number], row.state) for row in in_books)


@pytest.fixture(params=[("sqlite", "postgresql"), ("postgresql", "sqlite")], ids=["sqlite home", "postgresql home"])
async def shop(
    request: pytest.FixtureRequest,
    postgres: str,
    sqlite_template: Path,
    tmp_path: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[Shop]:
    """A worker whose environment names the database of the books."""
    kinds: tuple[Kind, Kind] = request.param
    home = await new_database(request, kinds[0], tmp_path)
    books = await new_database(request, kinds[1], tmp_path, empty=True)
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", home)
    monkeypatch.setenv("ORCHESTRATOR_DATABASES", json.dumps({BOOKS: books}))
    monkeypatch.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
    settings = Settings(task_queue=f"shop-{uuid4()}", log_level="ERROR")
    manager = Manager(settings, catalog=CATALOG)
    ready = await manager.prepare()
    # The engine creates the tables of SQLModel classes, but the cast uses plain tables.
    await migrate(ready.others[BOOKS], name=BOOKS, application=tables)
    async with ready.database.transaction() as connection:
        await stock(connection, a=100, b=0)
    async with manager.worker(ready):
        yield Shop(
            ClosingBus(client, CATALOG, task_queue=settings.task_queue, database=ready.database), ready.databases
        )
    await ready.databases.close()


async def test_a_worker_does_and_undoes_a_step_in_another_database(shop: Shop) -> None:
    await shop.bus.execute(Booking, BookingRequested())
    assert await coins_and_entries(shop.databases) == ({"a": 99, "b": 1}, ["a coin"])

    [handle] = await shop.bus.publish(BookingRequested(refuse=True))
    refused = await handle.outcome()
    assert (refused.phase, refused.error_code) == (Phase.FAILED, "booking.refused")
    assert await coins_and_entries(shop.databases) == ({"a": 99, "b": 1}, ["a coin"])

    Script.after["record"] = refuses("books.closed")
    [handle] = await shop.bus.publish(BookingRequested())
    closed = await handle.outcome()
    assert (closed.phase, closed.error_code) == (Phase.FAILED, "books.closed")
    assert await coins_and_entries(shop.databases) == ({"a": 99, "b": 1}, ["a coin"])

    Script.runs.clear()
    Script.after["record"] = fails(1)
    await shop.bus.execute(Booking, BookingRequested())
    assert Script.runs.count("record") == 2
    assert await coins_and_entries(shop.databases) == ({"a": 98, "b": 2}, ["a coin", "a coin"])

    assert await shop.states() == [("done", "done"), ("done", "done"), ("refused", "refused"), ("undone", "undone")]
