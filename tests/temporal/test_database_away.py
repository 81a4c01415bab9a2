"""PostgreSQL is unavailable while partitions are at full load: few sagas move, none is lost, and the rate recovers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from temporalio.client import Client

from orchestrator.protocol.names import is_partition
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.store.migrations.migrate import migrate
from tests import cast
from tests.chaos.postgres import Postgres
from tests.chaos.processes import children, resume, suspend
from tests.house import House, eventually, open_house
from tests.swarm import CATALOG, SwarmRequested

BOXES = 20
MOST_MOVED = 20
"""How many sagas at most may move to their own executions, whatever the load."""


@pytest.fixture
async def postgres_alone(tmp_path: Path) -> AsyncGenerator[Postgres]:
    """A PostgreSQL server that the test may suspend and kill."""
    server = Postgres(tmp_path / "postgres")
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def house(postgres_alone: Postgres, client: Client) -> AsyncGenerator[House]:
    database = Database(postgres_alone.url, pool_size=20)
    await migrate(database, application=cast.tables)
    async with database.transaction() as connection:
        await cast.stock(connection, **{f"box-{number}": 10_000 for number in range(BOXES)})
    async with open_house(client, database, CATALOG, task_queue=f"away-{uuid4()}") as opened:
        yield opened
    await database.close()


async def suspended(server: Postgres, seconds: float) -> None:
    """Suspend every process of the server for a while."""
    pids = [server.pid, *(process.pid for process in children(server.pid))]
    for pid in pids:
        suspend(pid)
    try:
        await asyncio.sleep(seconds)
    finally:
        for pid in pids:
            resume(pid)


async def killed(server: Postgres, seconds: float) -> None:
    """Kill the server and start it again after a while."""
    await server.kill()
    await asyncio.sleep(seconds)
    await server.revive()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "seconds"), [(150, 1.0), pytest.param(1_000, 5.0, marks=pytest.mark.exhaustive)], ids=["thin", "full"]
)
@pytest.mark.parametrize("outage", [suspended, killed])
async def test_during_an_outage_only_a_few_sagas_move_and_afterwards_the_rate_recovers(
    outage: Callable[[Postgres, float], Awaitable[None]],
    count: int,
    seconds: float,
    house: House,
    postgres_alone: Postgres,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def ended() -> int:
        statement = select(func.count()).select_from(saga).where(saga.c.outcome.is_not(None))
        async with house.database.reading() as connection:
            return await connection.scalar(statement) or 0

    async def until(number: int) -> float:
        """Wait until this many sagas have ended, and return how many seconds that took."""
        began = monotonic()

        async def enough_ended() -> bool:
            await asyncio.sleep(0.02)
            return await ended() >= number

        await eventually(enough_ended, f"{number} of {count} have ended", within=300)
        return monotonic() - began

    events = [
        SwarmRequested(source=f"box-{number % BOXES}", target=f"box-{(number + 1) % BOXES}", coins=1)
        for number in range(count)
    ]
    publishing = asyncio.create_task(house.bus.publish_many(events))
    await until(count // 10)  # the worker is warm
    ended_before = await ended()
    seconds_before = await until(count // 3)
    rate_before = (await ended() - ended_before) / seconds_before

    await outage(postgres_alone, seconds)
    outage_over = monotonic()
    await until(count // 3 + count // 10)
    returned = monotonic() - outage_over
    remaining = count - await ended()
    rate_after = remaining / await until(count)

    await publishing
    sagas = await house.sagas()
    assert {row.phase for row in sagas} == {"completed"}
    assert len(sagas) == count
    own = [row for row in sagas if not is_partition(row.owner_workflow_id)]
    assert len(own) <= MOST_MOVED
    boxes = (await house.holdings()).boxes
    assert {boxes[f"box-{number}"] for number in range(BOXES)} <= {10_000 + d for d in (-1, 0, 1)}
    assert (await house.holdings()).notes == count
    with capsys.disabled():
        rates = f"{rate_before:.0f} sagas/s before, {rate_after:.0f} after; back {returned:.1f} s after the database"
        print(f"\n{outage.__name__} for {seconds:g} s: {rates}; {len(own)} in their own executions")
