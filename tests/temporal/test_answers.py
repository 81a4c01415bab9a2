"""How a client learns a saga's outcome or an event: from the execution where possible, otherwise from the tables."""

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
from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.protocol.messages.envelope import wrap
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
    """A client's bus, which either reads the tables itself or asks a worker to read them."""
    database = house.database if request.param == "with the database" else None
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=database)
    yield bus
    if database is None:
        await bus.close()


async def publish_to_time_out(house: House, stops: Stops, where: str) -> Published:
    """Start an execution whose saga waits at a point until it times out; on a slow machine it gets more time."""
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
    raise AssertionError("no execution reached the point before it timed out")


async def cut_off(house: House, published: Published, end: str) -> None:
    """Make an execution end without an outcome, or wait until it has timed out."""
    match end:
        case "terminated" | "terminated before its first step":
            await published.terminate()
        case "reset":
            await published.reset()
        case "deleted":
            await published.delete()
        case _:
            await published.closed()


ENDS = {
    "terminated": ("step 2", Phase.CANCELLED),
    "terminated before its first step": ("step 1", Phase.COMPLETED),
    "timed out": ("step 2", Phase.COMPLETED),
    "reset": ("step 2", Phase.COMPLETED),
    "deleted": ("step 2", Phase.COMPLETED),
}
"""Where the saga waits when its execution is cut off, and the phase in which it ends, after a sweep if necessary."""


@pytest.mark.parametrize("end", ENDS)
async def test_waiting_clients_get_the_sagas_outcome_even_if_its_execution_is_cut_off(
    house: House, bus: EventBus, stops: Stops, end: str
) -> None:
    where, phase = ENDS[end]
    if end == "timed out":
        published = await publish_to_time_out(house, stops, where)
        handle = bus.saga(CoinsMove, published.event_id)
    else:
        event_id = new_id()
        stop = stops.before(where, event_id)
        [handle] = await bus.publish(EVENT, event_id=event_id)
        published = Published(house, event_id, handle.workflow_id)
        await stop.reached.wait()
    waiting = [
        asyncio.create_task(client_handle.outcome(timeout=SOON))
        for client_handle in (handle, bus.saga(CoinsMove, published.event_id))
    ]

    await cut_off(house, published, end)
    if end != "reset":
        with pytest.raises(NotFinished):
            await handle.outcome(timeout=AT_ONCE)
        if end == "terminated before its first step":
            await is_visible(house, published.workflow_id)
        await sweep(house)

    assert [(await task).phase for task in waiting] == [phase, phase]


async def test_an_outcome_still_arrives_after_the_bus_was_closed(house: House, stops: Stops) -> None:
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=house.database)
    event_id = new_id()
    stop = stops.before("step 2", event_id)
    [handle] = await bus.publish(EVENT, event_id=event_id)
    waiting = asyncio.create_task(handle.outcome(timeout=SOON))
    await stop.reached.wait()

    await bus.close()
    stops.open_all()

    assert (await waiting).phase is Phase.COMPLETED


async def test_an_old_saga_whose_execution_is_gone_still_has_its_outcome(house: House, bus: EventBus) -> None:
    """After Temporal's retention only the row exists."""
    Script.before["put"] = refuses()
    event_id = new_id()
    await driver_of(house.database, CoinsMove, EVENT, event_id).drive()

    with pytest.raises(SagaFailed) as raised:
        await bus.saga(CoinsMove, event_id).result(timeout=SOON)
    followed = [progress.what async for progress in bus.saga(CoinsMove, event_id).follow()]

    assert isinstance(raised.value.failure, CoinsMoveFailed)
    assert followed == ["finish: undone"]
    with pytest.raises(SagaUnknown):
        await bus.saga(CoinsMove, new_id()).outcome(timeout=SOON)


async def test_a_listener_receives_the_next_matching_event_from_any_source(house: House, bus: EventBus) -> None:
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
    received = await bus.next_event(
        CoinsMoveCompleted, matching=lambda event: event.coins == 3, since=before, timeout=SOON
    )
    assert received.coins == 3


async def test_a_listener_receives_an_event_that_was_committed_late_and_no_event_twice(
    house: House, bus: EventBus
) -> None:
    """The late event's row has an early time, because its transaction was open while later rows were committed."""
    late = wrap(CoinsMoveCompleted(coins=1, note="late"), event_id=new_id(), source="tests")
    async with bus.listening(CoinsMoveCompleted) as listening:
        before = datetime.now(UTC) - timedelta(seconds=30)
        await house.bus.execute(CoinsMove, EVENT)
        assert (await listening.next(timeout=SOON)).coins == 10
        async with house.database.transaction() as connection:
            for event_id, envelope in (
                (late.event_id, late.text),
                (new_id(), 'no JSON: "type": "COINS_MOVE_COMPLETED"'),
            ):
                values = {"event_id": event_id, "saga_id": uuid4(), "envelope": envelope, "created_at": before}
                await connection.execute(insert(saga_outbox).values(values))
        assert (await listening.next(timeout=SOON)).note == "late"
        with pytest.raises(EventTimeout):
            await listening.next(timeout=AT_ONCE)


async def test_each_listener_receives_only_the_events_that_match_its_own_condition(house: House, bus: EventBus) -> None:
    """All listeners share one query, and each of them filters its result."""
    large = bus.next_event(CoinsMoveCompleted, matching=lambda event: event.coins > 5, timeout=SOON)
    small = bus.next_event(CoinsMoveCompleted, matching=lambda event: event.coins <= 5, timeout=SOON)
    requested = bus.next_event(CoinsMoveRequested, timeout=SOON)
    received = asyncio.gather(large, small, requested)
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="time zone"):
        bus.listening(CoinsMoveCompleted, since=datetime(2026, 1, 1))  # noqa: DTZ001
    async with bus.listening(CoinsMoveCompleted) as listening:  # the waits that started earlier listen by now, too
        await house.bus.publish_many([EVENT, EVENT.model_copy(update={"coins": 3})])
        assert [event.coins for event in await received][:2] == [10, 3]
        assert {(await listening.next(timeout=SOON)).coins for _ in range(2)} == {10, 3}


async def test_clients_wait_through_a_server_crash_and_until_a_worker_starts(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, patience = new_id(), timedelta(seconds=60)
    async with EmbeddedServer(tmp_path, port=free_port(0), headless=True) as server:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        async with open_house(client, database, CATALOG, task_queue="away", working=False) as house:
            worker_bus = EventBus(client, house.catalog, task_queue="away")
            lookups_began = [_lookup_began(bus, monkeypatch) for bus in (house.bus, worker_bus)]
            [handle] = await house.bus.publish(EVENT, event_id=event_id)
            waiting = [
                asyncio.create_task(client_handle.result(timeout=patience))
                for client_handle in (
                    handle,
                    house.bus.saga(CoinsMove, event_id),
                    worker_bus.saga(CoinsMove, event_id),
                )
            ]
            waiting.append(
                asyncio.create_task(worker_bus.next_event(CoinsMoveCompleted, since=BEGUN, timeout=patience))
            )
            await asyncio.gather(*(began.wait() for began in lookups_began))
            os.kill(server.pid, signal.SIGKILL)
            await server.wait_ended()
            await server.stop()
            restarted = EmbeddedServer(tmp_path, port=int(server.address.rpartition(":")[2]), headless=True)
            async with restarted:
                assert not any(task.done() for task in waiting)
                async with house.another_worker():
                    assert {(await task).coins for task in waiting} == {10}


def _lookup_began(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event that is set once the bus has begun a lookup."""
    began, lookup = asyncio.Event(), bus._lookup  # pyright: ignore[reportPrivateUsage]
    ask = lookup.ask

    async def ask_and_note(lookup: Lookup) -> LookupReply:
        began.set()
        return await ask(lookup)

    monkeypatch.setattr(lookup, "ask", ask_and_note)
    return began


async def test_an_unreachable_database_is_an_error_that_names_its_setting(house: House) -> None:
    unreachable = Database("postgresql://somebody:secret@127.0.0.1:1/none")
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=unreachable)

    with pytest.raises(Unreachable, match="ORCHESTRATOR_DATABASE_URL"):
        await bus.saga(CoinsMove, new_id()).outcome()
    with pytest.raises(Unreachable, match="ORCHESTRATOR_DATABASE_URL"):
        await bus.next_event(CoinsMoveCompleted)
    await bus.close()


@pytest.mark.parametrize("configured", ["nothing", "this Temporal's", "another Temporal's", "an address"])
async def test_a_bus_reads_the_configured_database_or_the_file_in_its_state_folder_or_else_asks_a_worker(
    client: Client, sqlite_template: Path, tmp_path: Path, configured: str
) -> None:
    if configured.endswith("Temporal's"):
        for file in sqlite_template.parent.glob(f"{sqlite_template.name}*"):
            shutil.copy(file, tmp_path / file.name.replace(sqlite_template.name, "application.db"))
    if configured == "another Temporal's":
        application = Database(f"sqlite:///{tmp_path / 'application.db'}")
        async with application.transaction() as connection:
            await connection.execute(update(saga_meta).values(temporal_namespace="elsewhere"))
        await application.close()
    settings = Settings(
        state_dir=tmp_path,
        temporal_address=client.service_client.config.target_host,
        database_url="postgresql://somebody:secret@127.0.0.1:1/none" if configured == "an address" else "",
    )

    async with EventBus.connect(settings, catalog=CATALOG) as bus:
        reads = configured in ("this Temporal's", "an address")
        assert isinstance(bus._lookup, DatabaseLookup if reads else WorkerLookup)  # pyright: ignore[reportPrivateUsage]


async def test_closing_the_bus_ends_every_wait(house: House, bus: EventBus) -> None:
    async with bus.listening(CoinsMoveCompleted) as listening:
        waiting = asyncio.create_task(listening.next())
        await asyncio.sleep(0)  # lets the task run until it waits
        await bus._log.close()  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(asyncio.CancelledError):
            await waiting
