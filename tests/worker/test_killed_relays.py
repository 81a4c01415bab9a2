"""Relays that are killed or stopped while they send: every event is handled once and in order."""

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
from tests.worker.relay_process import CATALOG, HeardRequested

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
        """Start processes in the background, which wait until they are used."""
        self._spares += [asyncio.create_task(self._start()) for _ in range(count)]

    async def use(self) -> None:
        """Let one more prepared process run."""
        process = await self._spares.pop(0)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        self.running.append(process)

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.worker.relay_process"),
            cwd=ROOT,
            env=self._environment,
            stdin=PIPE,
            stdout=PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        return process

    async def kill(self, process: Process) -> None:
        """Kill a process with SIGKILL."""
        self.running.remove(process)
        process.kill()
        await process.wait()

    def stop(self, process: Process) -> None:
        """Stop a process with SIGSTOP, together with the rows that it has claimed."""
        process.send_signal(signal.SIGSTOP)
        self.running.remove(process)
        self.stopped.append(process)

    def wake(self) -> None:
        """Let the stopped processes continue."""
        for process in self.stopped:
            process.send_signal(signal.SIGCONT)
        self.running += self.stopped
        self.stopped.clear()

    async def end(self) -> None:
        """Kill all processes."""
        for process in [*self.running, *self.stopped, *await asyncio.gather(*self._spares)]:
            process.kill()
            await process.wait()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "count", "kills"),
    [
        ("postgresql", 60, 2),
        pytest.param("postgresql", 2_000, 20, marks=FULL),
        pytest.param("sqlite", 600, 8, marks=FULL),
    ],
)
async def test_every_event_is_handled_once_and_in_order_while_relays_are_killed(
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
                await eventually(lambda mark=mark: _sent(house, mark), f"{mark} events are sent", within=120)  # type: ignore[misc]
                await relays.kill(chance.choice(relays.running))
                hits += [await _unsent(house) > 0]
                relays.wake()
                if kill % 4 == 2:
                    relays.stop(chance.choice(relays.running))
                await relays.use()
                relays.prepare(1 if kill + 2 <= kills else 0)
            relays.wake()
            await eventually(lambda: _all_done(house, count), "all sagas are done", within=300)
        finally:
            await relays.end()
        for workflow_id in {saga_row.owner_workflow_id for saga_row in await house.sagas()}:
            await client.get_workflow_handle(workflow_id).terminate()

    sagas = await rows(database, saga)
    assert Counter(row.text for row in await rows(database, note)) == Counter(str(number) for number in range(count))
    assert {row.phase for row in sagas} == {"completed"}
    assert not await house.dead_letters()
    for key in [f"k{number}" for number in range(KEYS)]:
        handled = [row for row in sorted(sagas, key=lambda row: row.finished_at) if row.ordering_key == key]
        numbers = [int(row.event_id.partition("-")[2]) for row in handled]
        assert numbers == sorted(numbers), key
        event_ids = [line for line in dict.fromkeys(delivered.read_text().split()) if line.startswith(f"{key}-")]
        assert [int(event_id.partition("-")[2]) for event_id in event_ids] == numbers, key
    deliveries = len(delivered.read_text().split())
    print(f"{count} events, {kills} kills: {deliveries} deliveries, {deliveries - count} of them dropped repeats")
    assert all(hits), "a kill came too late, when nothing was left to send"
    assert count < 500 or deliveries > count, "no relay died between sending and marking"


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
