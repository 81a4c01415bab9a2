"""What a worker logs while its database is down, checked by the lines and tracebacks, not by times."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate
from orchestrator.worker import fault_log
from tests import cast
from tests.cast_events import CoinsMoveRequested
from tests.chaos.postgres import Postgres
from tests.house import CATALOG, eventually, open_house
from tests.swarm import CATALOG as SWARM
from tests.swarm import SwarmRequested

SAGAS = 20


@pytest.fixture
async def postgres_alone(tmp_path: Path) -> AsyncGenerator[Postgres]:
    """A PostgreSQL server that the test may kill."""
    server = Postgres(tmp_path / "postgres")
    await server.start()
    yield server
    await server.close()


@pytest.mark.parametrize("placement", ["own", "partition"])
async def test_an_outage_logs_one_line_at_its_start_one_a_minute_and_one_at_its_end(
    placement: str,
    postgres_alone: Postgres,
    client: Client,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fault_log, "MINUTE", 1.0)
    database = Database(postgres_alone.url, pool_size=10)
    await migrate(database, application=cast.tables)
    catalog = CATALOG if placement == "own" else SWARM
    async with open_house(client, database, catalog, task_queue=f"outage-{uuid4()}") as house:
        async with database.transaction() as connection:
            await cast.stock(connection, **{f"box-{number}": 10_000 for number in range(4)})
        events = [
            CoinsMoveRequested(source="box-1", target="box-2", coins=1)
            if placement == "own"
            else SwarmRequested(source=f"box-{number % 2}", target=f"box-{2 + number % 2}", coins=1)
            for number in range(SAGAS)
        ]
        caplog.set_level(logging.INFO)
        await postgres_alone.kill()
        caplog.clear()
        await house.bus.publish_many(events)

        async def has_lasted() -> bool:
            await asyncio.sleep(0.1)
            return sum(record.message.startswith("For ") for record in caplog.records) >= 3

        await eventually(has_lasted, "the outage has been logged three times", within=60)
        await postgres_alone.revive()

        async def is_over() -> bool:
            await asyncio.sleep(0.1)
            have_ended = [row for row in await house.sagas() if row.outcome]
            return len(have_ended) == SAGAS and any("is back after" in record.getMessage() for record in caplog.records)

        await eventually(is_over, "all sagas have ended and the end of the outage is logged", within=120)

    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    first, *reminders, last = lines
    assert first.startswith("The database at postgresql://")
    assert "is back after" in last
    assert all(line.startswith("For ") for line in reminders)
    assert len([record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]) == 0
    assert all("wait" in line for line in reminders)
    await database.close()
