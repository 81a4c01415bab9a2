"""A bus and a database belong to one event loop; a call from another loop is refused with an explanation."""

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from temporalio.client import Client

from orchestrator import UsageError
from orchestrator.client import EventBus, connect_temporal
from orchestrator.definition.catalog import Catalog
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from tests.cast_events import LetterCompleted
from tests.unit.test_requests_in_flight import EVENT, Busy, Posted

CALLS: dict[str, Callable[[EventBus], Awaitable[Any]]] = {
    "publish": lambda bus: bus.publish(EVENT),
    "publish_raw": lambda bus: bus.publish_raw(b"no event"),
    "publish_many": lambda bus: bus.publish_many([EVENT] * 2),
    "execute": lambda bus: bus.execute(Posted, EVENT, timeout=timedelta(seconds=5)),
    "send": lambda bus: bus.send(LetterCompleted(), to=Posted, triggering_event_id="1"),
    "next_event": lambda bus: bus.next_event(LetterCompleted, timeout=timedelta(seconds=5)),
    "saga": lambda bus: bus.saga(Posted, "1").outcome(timeout=timedelta(seconds=5)),
    "close": lambda bus: bus.close(),
}


@pytest.fixture
def bus(tmp_path: Path) -> EventBus:
    """A bus that was used in an event loop that is closed now."""
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    bus = EventBus(cast(Client, Busy(100)), Catalog.of(orchestrators=[Posted]), database=database)
    in_a_thread(lambda: asyncio.run(_await(bus.publish(EVENT))))
    return bus


async def _await(call: Awaitable[Any]) -> Any:
    return await call


def run_once(call: Callable[[], Awaitable[Any]]) -> None:
    """Call a function in a new event loop."""
    asyncio.run(_await_called(call))


async def _await_called(call: Callable[[], Awaitable[Any]]) -> None:
    await call()


def in_a_thread(work: Callable[[], Any]) -> None:
    """Run work in a thread and re-raise its exception here."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as fault:
            faults.append(fault)

    thread = Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the thread hangs"
    if faults:
        raise faults[0]


def in_a_fork(work: Callable[[], Any]) -> str:
    """Run work in a forked process; returns the repr of its result, or the type and text of its exception."""
    reading, writing = os.pipe()

    def run() -> None:
        try:
            text = repr(work())
        except BaseException as fault:
            text = f"{type(fault).__name__}: {fault}"
        os.write(writing, text.encode())

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    os.close(writing)
    process.join(20)
    hangs = process.is_alive()
    process.kill()
    process.join()
    with os.fdopen(reading, "rb") as pipe:
        return "the process hangs" if hangs else pipe.read().decode()


@pytest.mark.parametrize("call", CALLS)
def test_a_bus_of_a_closed_event_loop_is_refused_at_the_first_call(bus: EventBus, call: str) -> None:
    with pytest.raises(UsageError, match=r"this EventBus belongs to the event loop .* has been closed"):
        in_a_thread(lambda: asyncio.run(_await(CALLS[call](bus))))


async def test_a_bus_in_another_thread_is_refused_and_keeps_working_in_its_own_loop() -> None:
    bus = EventBus(cast(Client, Busy(100)), Catalog.of(orchestrators=[Posted]))
    await bus.publish(EVENT)

    with pytest.raises(UsageError, match=r"belongs to the event loop .* another thread"):
        await asyncio.to_thread(lambda: asyncio.run(_await(bus.publish(EVENT))))

    assert len(await bus.publish(EVENT)) == 1


async def test_handles_and_listeners_of_another_event_loop_are_refused() -> None:
    bus = EventBus(cast(Client, Busy(100)), Catalog.of(orchestrators=[Posted]))
    [handle] = await bus.publish(EVENT)
    listening = bus.listening(LetterCompleted)

    async def follow() -> None:
        async for _ in handle.follow():
            pass

    for use in (handle.outcome, handle.result, follow, listening.__aenter__, listening.next):
        with pytest.raises(UsageError, match="belongs to the event loop"):
            await asyncio.to_thread(run_once, use)


@pytest.mark.parametrize("call", CALLS)
async def test_a_bus_is_refused_after_a_fork_and_never_hangs(call: str) -> None:
    bus = EventBus(cast(Client, Busy(100)), Catalog.of(orchestrators=[Posted]))

    result = in_a_fork(lambda: asyncio.run(_await(CALLS[call](bus))))

    assert result.startswith("UsageError: this EventBus was created before this process was forked")


async def test_connecting_after_a_fork_takes_a_new_runtime(client: Client) -> None:
    settings = Settings(temporal_address=client.service_client.config.target_host)

    result = in_a_fork(lambda: asyncio.run(connect_temporal(settings)).namespace)

    assert result == repr(client.namespace)


async def test_a_database_in_another_loop_is_refused_and_keeps_working_in_its_own(database: Database) -> None:
    async def count() -> None:
        async with database.transaction() as connection:
            await connection.execute(saga.select().limit(1))

    await count()
    for use in (count, database.check):
        with pytest.raises(UsageError, match=r"the connection pool of .* belongs to the event loop"):
            await asyncio.to_thread(run_once, use)
    assert in_a_fork(lambda: asyncio.run(count())).startswith("UsageError: the connection pool of")

    with pytest.raises(UsageError, match="belongs to the event loop"):
        await asyncio.to_thread(run_once, database.close)
    assert in_a_fork(lambda: asyncio.run(database.close())) == "None"
    await count()
