"""What became of an event: told by its execution where that can, by the rows where it cannot, and to whoever asks."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import insert, update
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from orchestrator import EventBus, EventTimeout, NotFinished, SagaFailed, SagaUnknown, Unreachable, UsageError
from orchestrator.client.outcomes.lookup import DatabaseLookup, WorkerLookup
from orchestrator.devserver.ports import free_port
from orchestrator.devserver.server import EmbeddedServer
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.envelope import wrap
from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.protocol.names import own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_meta, saga_outbox
from orchestrator.workflow.own_execution import raw_json
from tests.cast import Script, refuses
from tests.cast_events import CoinsMoveCompleted, CoinsMoveFailed, CoinsMoveRequested
from tests.house import CATALOG, House, new_id, open_house
from tests.orchestrators import CoinsMove
from tests.store.pacing import driver_of
from tests.temporal.recovering import EVENT, Published, Stops, is_visible, sweep

SOON = timedelta(seconds=20)
AT_ONCE = timedelta(milliseconds=300)
BEGUN = datetime.now(UTC)


@pytest.fixture(params=["with the database", "through a worker"])
async def bus(request: pytest.FixtureRequest, house: House) -> AsyncGenerator[EventBus]:
    """A client's bus: one that can read the tables, and one that has to ask."""
    database = house.database if request.param == "with the database" else None
    made = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=database)
    yield made
    if database is None:
        await made.close()


async def times_out(house: House, stops: Stops, where: str) -> Published:
    """An execution that will time out, and its saga stands there: where the machine is slow, it is given longer."""
    for seconds in (1, 4, 16, 64):
        event_id = new_id()
        stop = stops.before(where, event_id)
        published = Published(house, event_id, own_workflow_id("CoinsMove", event_id))
        raw = raw_json(wrap(EVENT, event_id=event_id, source="tests").text.encode())
        await house.client.start_workflow(
            "CoinsMove",
            raw,
            id=published.workflow_id,
            task_queue=house.task_queue,
            execution_timeout=timedelta(seconds=seconds),
        )
        reached, closed = asyncio.create_task(stop.reached.wait()), asyncio.create_task(published.closed())
        await asyncio.wait({reached, closed}, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if reached.done():
            return published
        reached.cancel()
    raise AssertionError("no execution came there before it timed out")


async def befall(house: House, published: Published, end: str) -> None:
    """What may happen to an execution."""
    match end:
        case "terminated" | "terminated before it was taken":
            await published.terminate()
        case "reset":
            await published.reset()
        case "deleted":
            await published.delete()
        case _:
            await published.closed()


ENDS = {
    "terminated": ("step 2", Phase.CANCELLED),
    "terminated before it was taken": ("step 1", Phase.COMPLETED),
    "timed out": ("step 2", Phase.COMPLETED),
    "reset": ("step 2", Phase.COMPLETED),
    "deleted": ("step 2", Phase.COMPLETED),
}
"""Where the saga stands when it happens, and how it ends: by itself, or once recovery has looked."""


@pytest.mark.parametrize("end", ENDS)
async def test_an_execution_that_is_cut_off_is_no_outcome_and_whoever_waits_gets_the_sagas(
    house: House, bus: EventBus, stops: Stops, end: str
) -> None:
    where, phase = ENDS[end]
    if end == "timed out":
        published = await times_out(house, stops, where)
        handle = bus.handle(CoinsMove, published.event_id)
    else:
        event_id = new_id()
        stop = stops.before(where, event_id)
        [handle] = await bus.publish(EVENT, event_id=event_id)
        published = Published(house, event_id, handle.workflow_id)
        await stop.reached.wait()
    waiting = [
        asyncio.create_task(one.outcome(timeout=SOON)) for one in (handle, bus.handle(CoinsMove, published.event_id))
    ]

    await befall(house, published, end)
    if end != "reset":
        with pytest.raises(NotFinished):
            await handle.outcome(timeout=AT_ONCE)
        if end == "terminated before it was taken":
            await is_visible(house, published.workflow_id)
        await sweep(house)

    assert [(await task).phase for task in waiting] == [phase, phase]


async def test_whoever_waits_for_an_execution_is_told_though_the_bus_is_closed(house: House, stops: Stops) -> None:
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=house.database)
    event_id = new_id()
    stop = stops.before("step 2", event_id)
    [handle] = await bus.publish(EVENT, event_id=event_id)
    waiting = asyncio.create_task(handle.outcome(timeout=SOON))
    await stop.reached.wait()

    await bus.close()
    stops.open_all()

    assert (await waiting).phase is Phase.COMPLETED


async def test_a_saga_of_long_ago_tells_its_outcome_though_no_execution_is_there(house: House, bus: EventBus) -> None:
    """As after Temporal's retention: only the row is left."""
    Script.before["put"] = refuses()
    event_id = new_id()
    await driver_of(house.database, CoinsMove, EVENT, event_id).drive()

    with pytest.raises(SagaFailed) as told:
        await bus.handle(CoinsMove, event_id).result(timeout=SOON)
    followed = [progress.what async for progress in bus.handle(CoinsMove, event_id).follow()]

    assert isinstance(told.value.failure, CoinsMoveFailed)
    assert followed == ["finish: undone"]
    with pytest.raises(SagaUnknown):
        await bus.handle(CoinsMove, new_id()).outcome(timeout=SOON)


async def test_the_next_event_that_matches_is_heard_from_wherever_it_comes(house: House, bus: EventBus) -> None:
    await house.bus.execute(CoinsMove, EVENT)
    before = datetime.now(UTC)
    async with bus.listening(CoinsMoveCompleted) as completed, bus.listening(CoinsMoveRequested) as requested:
        with pytest.raises(EventTimeout):
            await completed.next(timeout=AT_ONCE)
        await house.bus.execute(CoinsMove, EVENT.model_copy(update={"coins": 3}))
        assert (await completed.next(timeout=SOON)).coins == 3
        assert (await requested.next(timeout=SOON)).coins == 3
        with pytest.raises(EventTimeout):
            await completed.next(timeout=AT_ONCE)
    heard = await bus.wait_for(CoinsMoveCompleted, matching=lambda one: one.coins == 3, since=before, timeout=SOON)
    assert heard.coins == 3


async def test_what_was_recorded_earlier_and_committed_later_is_heard_and_nothing_twice(
    house: House, bus: EventBus
) -> None:
    """One in an outbox whose transaction is still open while later ones go through, and comes by the relay, too."""
    late = wrap(CoinsMoveCompleted(coins=1, note="late"), event_id=new_id(), source="tests")
    async with bus.listening(CoinsMoveCompleted) as heard:
        before = datetime.now(UTC) - timedelta(seconds=30)
        await house.bus.execute(CoinsMove, EVENT)
        assert (await heard.next(timeout=SOON)).coins == 10
        async with house.database.transaction() as connection:
            for event_id, envelope in (
                (late.event_id, late.text),
                (new_id(), 'no JSON: "type": "COINS_MOVE_COMPLETED"'),
            ):
                values = {"event_id": event_id, "saga_id": uuid4(), "envelope": envelope, "created_at": before}
                await connection.execute(insert(saga_outbox).values(values))
        assert (await heard.next(timeout=SOON)).note == "late"
        with pytest.raises(EventTimeout):
            await heard.next(timeout=AT_ONCE)


async def test_whoever_listens_for_what_the_other_does_not_hears_its_own(house: House, bus: EventBus) -> None:
    """One question for all; each decides for itself."""
    large = bus.wait_for(CoinsMoveCompleted, matching=lambda one: one.coins > 5, timeout=SOON)
    small = bus.wait_for(CoinsMoveCompleted, matching=lambda one: one.coins <= 5, timeout=SOON)
    asked = bus.wait_for(CoinsMoveRequested, timeout=SOON)
    heard = asyncio.gather(large, small, asked)
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="time zone"):
        bus.listening(CoinsMoveCompleted, since=datetime(2026, 1, 1))  # noqa: DTZ001
    async with bus.listening(CoinsMoveCompleted) as begun:  # whoever began before has begun, too
        await house.bus.publish_many([EVENT, EVENT.model_copy(update={"coins": 3})])
        assert [event.coins for event in await heard][:2] == [10, 3]
        assert {(await begun.next(timeout=SOON)).coins for _ in range(2)} == {10, 3}


async def test_the_server_may_be_killed_and_the_worker_come_later_while_somebody_waits(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, patience = new_id(), timedelta(seconds=60)
    async with EmbeddedServer(tmp_path, port=free_port(0), headless=True) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        async with open_house(client, database, CATALOG, task_queue="away", working=False) as house:
            asking = EventBus(client, house.catalog, task_queue="away")
            asked = [_when_asked(bus, monkeypatch) for bus in (house.bus, asking)]
            [handle] = await house.bus.publish(EVENT, event_id=event_id)
            waiting = [
                asyncio.create_task(one.result(timeout=patience))
                for one in (handle, house.bus.handle(CoinsMove, event_id), asking.handle(CoinsMove, event_id))
            ]
            waiting.append(asyncio.create_task(asking.wait_for(CoinsMoveCompleted, since=BEGUN, timeout=patience)))
            await asyncio.gather(*(handle.wait() for handle in asked))
            os.kill(server.pid, signal.SIGKILL)
            await server.wait_ended()
            await server.stop()
            again = EmbeddedServer(tmp_path, port=int(server.address.rpartition(":")[2]), headless=True)
            async with again:
                assert not any(task.done() for task in waiting)
                async with house.another_worker():
                    assert {(await task).coins for task in waiting} == {10}


def _when_asked(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a bus has asked its tables."""
    asked, tables = asyncio.Event(), bus._lookup  # pyright: ignore[reportPrivateUsage]
    ask = tables.ask

    async def asking(question: Lookup) -> LookupReply:
        asked.set()
        return await ask(question)

    monkeypatch.setattr(tables, "ask", asking)
    return asked


async def test_an_address_that_does_not_answer_is_told(house: House) -> None:
    nowhere = Database("postgresql://somebody:secret@127.0.0.1:1/none")
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=nowhere)

    with pytest.raises(Unreachable, match="ORCHESTRATOR_DATABASE_URL"):
        await bus.handle(CoinsMove, new_id()).outcome()
    with pytest.raises(Unreachable, match="ORCHESTRATOR_DATABASE_URL"):
        await bus.wait_for(CoinsMoveCompleted)
    await bus.close()


@pytest.mark.parametrize("there", ["nothing", "this Temporal's", "another Temporal's", "an address"])
async def test_a_bus_reads_the_database_that_is_set_or_lies_beside_it_and_else_asks_a_worker(
    client: Client, sqlite_template: Path, tmp_path: Path, there: str
) -> None:
    if there.endswith("Temporal's"):
        for found in sqlite_template.parent.glob(f"{sqlite_template.name}*"):
            shutil.copy(found, tmp_path / found.name.replace(sqlite_template.name, "application.db"))
    if there == "another Temporal's":
        beside = Database(f"sqlite:///{tmp_path / 'application.db'}")
        async with beside.transaction() as connection:
            await connection.execute(update(saga_meta).values(temporal_namespace="elsewhere"))
        await beside.close()
    settings = Settings(
        state_dir=tmp_path,
        temporal_address=client.service_client.config.target_host,
        database_url="postgresql://somebody:secret@127.0.0.1:1/none" if there == "an address" else "",
    )

    bus = await EventBus.connect(settings, catalog=CATALOG)

    reads = there in ("this Temporal's", "an address")
    assert isinstance(bus._lookup, DatabaseLookup if reads else WorkerLookup)  # pyright: ignore[reportPrivateUsage]
    await bus.close()


async def test_nobody_waits_longer_than_until_the_bus_is_closed(house: House, bus: EventBus) -> None:
    async with bus.listening(CoinsMoveCompleted) as heard:
        waiting = asyncio.create_task(heard.next())
        await asyncio.sleep(0)  # it runs until it waits
        await bus._log.close()  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(asyncio.CancelledError):
            await waiting
