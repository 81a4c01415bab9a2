"""The blocking twin has the bus's methods, and works from threads, after a fork, and until it is closed."""

import asyncio
import inspect
import os
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from time import monotonic, sleep
from typing import Any, cast

import pytest
from temporalio.client import Client

from orchestrator import Unreachable, UsageError
from orchestrator.client import (
    BlockingEventBus,
    BlockingListening,
    BlockingSagaHandle,
    EventBus,
    Listening,
    SagaHandle,
)
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Phase
from tests.unit.test_event_loops import in_a_fork, in_a_thread
from tests.unit.test_requests_in_flight import EVENT, Busy, Posted

SOON = timedelta(seconds=0.05)


class Connector:
    """Connects to a Temporal that takes its time."""

    def __init__(self) -> None:
        self.server = Busy(1_000)
        self.connected = 0
        self.faults: list[Exception] = []
        self.pause = 0.0

    async def connect(self) -> EventBus:
        """Connect, or fail as a test wants it."""
        await asyncio.sleep(self.pause)
        if self.faults:
            raise self.faults.pop()
        self.connected += 1
        return EventBus(cast(Client, self.server), Catalog.of(orchestrators=[Posted]))


@pytest.fixture
def connector() -> Connector:
    return Connector()


@pytest.fixture
def bus(connector: Connector) -> Generator[BlockingEventBus]:
    bus = BlockingEventBus(connector.connect)
    yield bus
    bus.close()


def when(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Act in another thread as soon as a condition holds."""

    def wait_and_act() -> None:
        until = monotonic() + 20
        while not condition() and monotonic() < until:
            sleep(0.001)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def publish_forever(bus: BlockingEventBus) -> None:
    while True:
        bus.publish(EVENT)


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "event-bus"]


@pytest.mark.parametrize(
    ("twin", "original"),
    [(BlockingEventBus, EventBus), (BlockingSagaHandle, SagaHandle), (BlockingListening, Listening)],
)
def test_the_twin_has_the_same_methods_with_the_same_parameters(twin: type, original: type) -> None:
    used_by_the_bus = {"skip", "raise_floor", "receive", "wake", "fail"}  # what the log of events calls on a listening

    def methods(of: type) -> dict[str, list[tuple[str, Any, Any]]]:
        return {
            name: [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(of, callable)
            if not name.startswith("_") and name not in used_by_the_bus
        }

    assert methods(twin) == methods(original)


def test_many_threads_share_one_connection(bus: BlockingEventBus, connector: Connector) -> None:
    connector.pause = 0.05

    def publish(number: int) -> list[BlockingSagaHandle[Any]]:
        return bus.publish(EVENT, event_id=str(number))

    with ThreadPoolExecutor(20) as threads:
        published = list(threads.map(publish, range(200)))

    assert [handle.event_id for [handle] in published] == [str(number) for number in range(200)]
    assert (connector.connected, connector.server.served) == (1, 200)


def test_an_outcome_reaches_the_caller(bus: BlockingEventBus) -> None:
    assert bus.saga(Posted, "ends").outcome().phase is Phase.COMPLETED


def test_nothing_is_connected_before_the_first_call_or_the_block(connector: Connector) -> None:
    bus = BlockingEventBus(connector.connect)
    assert connector.connected == 0

    with bus:
        assert connector.connected == 1
    assert loop_threads() == []


def test_a_connection_that_fails_is_made_again_by_the_next_call(bus: BlockingEventBus, connector: Connector) -> None:
    connector.faults = [Unreachable("away"), Unreachable("away")]

    for _ in range(2):
        with pytest.raises(Unreachable, match="away"):
            bus.publish(EVENT)
        assert loop_threads() == []

    assert len(bus.publish(EVENT)) == 1


def test_closing_ends_the_calls_of_other_threads_and_refuses_later_ones(
    bus: BlockingEventBus, connector: Connector
) -> None:
    [handle] = bus.publish(EVENT)
    closing = when(lambda: connector.server.in_flight > 0, bus.close)

    with pytest.raises(UsageError, match="This bus was closed while the call waited; its saga"):
        in_a_thread(handle.outcome)
    closing.join()

    assert loop_threads() == []
    for call in (lambda: bus.publish(EVENT), handle.outcome):
        with pytest.raises(UsageError, match="This bus is closed"):
            call()
    bus.close()


def test_calls_while_a_bus_is_closed_never_hang(connector: Connector) -> None:
    for _ in range(20):
        bus = BlockingEventBus(connector.connect)
        bus.publish(EVENT)

        def publish_until_closed(bus: BlockingEventBus = bus) -> None:
            with pytest.raises(UsageError, match=r"This bus (is|was) closed"):
                publish_forever(bus)

        with ThreadPoolExecutor(4) as threads:
            publishing = [threads.submit(publish_until_closed) for _ in range(4)]
            bus.close()
            for future in publishing:
                future.result(timeout=20)


def test_ctrl_c_ends_the_call_that_waits_and_the_bus_works_on(bus: BlockingEventBus, connector: Connector) -> None:
    waits = when(lambda: connector.server.in_flight > 0, lambda: os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        bus.saga(Posted, "lasts").outcome()
    waits.join()

    assert len(bus.publish(EVENT)) == 1
    assert connector.server.in_flight == 0


async def test_a_call_in_a_thread_with_an_event_loop_is_refused(bus: BlockingEventBus) -> None:
    with pytest.raises(UsageError, match="in a thread that runs an event loop"):
        bus.publish(EVENT)

    assert len(await asyncio.to_thread(bus.publish, EVENT)) == 1


def test_a_forked_process_makes_its_own_connection(bus: BlockingEventBus, connector: Connector) -> None:
    [handle] = bus.publish(EVENT)

    assert in_a_fork(lambda: (len(bus.publish(EVENT)), connector.connected)) == "(1, 2)"
    assert in_a_fork(bus.close) == "None"
    assert in_a_fork(lambda: handle.outcome(timeout=SOON)).startswith(
        "UsageError: This handle or listening was created before this process was forked"
    )

    assert len(bus.publish(EVENT)) == 1
    assert connector.connected == 1


def test_a_fork_while_another_thread_connects_does_not_hang(bus: BlockingEventBus, connector: Connector) -> None:
    connector.pause = 0.5
    connecting = threading.Thread(target=bus.publish, args=(EVENT,))
    connecting.start()

    assert in_a_fork(lambda: len(bus.publish(EVENT))) == "1"

    connecting.join()
    assert connector.connected == 1
