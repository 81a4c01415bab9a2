"""Relays that are killed with SIGKILL, or stand still, while they send: every event arrives, once and in order."""

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from temporalio.client import Client

from orchestrator import outbox
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_outbox
from tests.cast import note
from tests.docs.markdown import ROOT
from tests.house import House, eventually, open_house, rows
from tests.worker.heard import CATALOG, HeardRequested

KEYS = 20
RELAYS = 3
FULL = pytest.mark.exhaustive


class Relays:
    """Relay processes on one database."""

    def __init__(self, house: House, delivered: Path) -> None:
        self._environment = {
            **os.environ,
            "TEMPORAL_ADDRESS": house.client.service_client.config.target_host,
            "TASK_QUEUE": house.task_queue,
            "DATABASE_URL": house.database.url.render_as_string(hide_password=False),
            "DELIVERED": str(delivered),
        }
        self.running: list[Process] = []
        self.stopped: list[Process] = []
        self._spares: list[asyncio.Task[Process]] = []

    def prepare(self, count: int) -> None:
        """Begin to start so many, which wait to be used."""
        self._spares += [asyncio.create_task(self._start()) for _ in range(count)]

    async def use(self) -> None:
        """Have one more run that was prepared."""
        process = await self._spares.pop(0)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        self.running.append(process)

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.worker.heard"), cwd=ROOT, env=self._environment, stdin=PIPE, stdout=PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        return process

    async def kill(self, one: Process) -> None:
        """With SIGKILL."""
        self.running.remove(one)
        one.kill()
        await one.wait()

    def stop(self, one: Process) -> None:
        """It stands still, with what it has in its hands."""
        one.send_signal(signal.SIGSTOP)
        self.running.remove(one)
        self.stopped.append(one)

    def wake(self) -> None:
        """Those that stood still go on."""
        for one in self.stopped:
            one.send_signal(signal.SIGCONT)
        self.running += self.stopped
        self.stopped.clear()

    async def end(self) -> None:
        """All of them."""
        for one in [*self.running, *self.stopped, *await asyncio.gather(*self._spares)]:
            one.kill()
            await one.wait()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "count", "kills"),
    [
        ("postgresql", 60, 2),
        pytest.param("postgresql", 2_000, 20, marks=FULL),
        pytest.param("sqlite", 600, 8, marks=FULL),
    ],
)
async def test_what_is_in_the_outbox_arrives_once_and_in_order_while_relays_are_killed(
    client: Client, database: Database, tmp_path: Path, count: int, kills: int
) -> None:
    chance = random.Random(5)
    delivered = tmp_path / "delivered"
    async with open_house(client, database, CATALOG, task_queue=f"heard-{uuid4()}") as house:
        for first in range(0, count, 50):
            async with database.transaction() as connection:
                for number in range(first, min(first + 50, count)):
                    key = None if number % 10 == 0 else f"k{number % KEYS}"
                    event = HeardRequested(number=number, key=key)
                    await outbox.add(connection, event, key=key, event_id=f"{key or 'free'}-{number}")
        relays, hits = Relays(house, delivered), list[bool]()
        try:
            relays.prepare(min(RELAYS, kills) + 2)
            for _ in range(min(RELAYS, kills)):
                await relays.use()
            for kill in range(1, kills + 1):
                mark = count * kill // (kills + 1)
                await eventually(lambda mark=mark: _sent(house, mark), f"{mark} are sent", within=120)  # type: ignore[misc]
                await relays.kill(chance.choice(relays.running))
                hits += [await _unsent(house) > 0]
                relays.wake()
                if kill % 4 == 2:
                    relays.stop(chance.choice(relays.running))
                await relays.use()
                relays.prepare(1 if kill + 2 <= kills else 0)
            relays.wake()
            await eventually(lambda: _all_done(house, count), "all are done", within=300)
        finally:
            await relays.end()
        for name in {one.owner_workflow_id for one in await house.sagas()}:
            await client.get_workflow_handle(name).terminate()

    sagas = await rows(database, saga)
    assert Counter(one.text for one in await rows(database, note)) == Counter(str(number) for number in range(count))
    assert {one.phase for one in sagas} == {"completed"}
    assert not await house.dead_letters()
    for key in [f"k{number}" for number in range(KEYS)]:
        handled = [one for one in sorted(sagas, key=lambda one: one.finished_at) if one.ordering_key == key]
        numbers = [int(one.event_id.partition("-")[2]) for one in handled]
        assert numbers == sorted(numbers), key
        lines = [one for one in dict.fromkeys(delivered.read_text().split()) if one.startswith(f"{key}-")]
        assert [int(one.partition("-")[2]) for one in lines] == numbers, key
    said = len(delivered.read_text().split())
    print(f"{count} events, {kills} kills: {said} deliveries, {said - count} of them repeats that were dropped")
    assert all(hits), "a kill hit nothing: there was nothing more to send"
    assert count < 500 or said > count, "no relay died between sending and marking"


async def _sent(house: House, mark: int) -> bool:
    async with house.database.reading() as connection:
        sent = select(func.count()).where(saga_outbox.c.sent_at.is_not(None), saga_outbox.c.target.is_not(None))
        return (await connection.scalar(sent) or 0) >= mark


async def _unsent(house: House) -> int:
    async with house.database.reading() as connection:
        return await connection.scalar(select(func.count()).where(saga_outbox.c.sent_at.is_(None))) or 0


async def _all_done(house: House, count: int) -> bool:
    async with house.database.reading() as connection:
        done = await connection.scalar(select(func.count()).where(saga.c.outcome.is_not(None)))
    return done == count and not await _unsent(house)
