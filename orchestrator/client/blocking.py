"""A blocking twin of the event bus, for code without an event loop: Django, Flask, Celery and scripts.

Each call runs in an `EventBus`, on an event loop in a thread of its own, while the calling thread waits. That thread
starts with the first call, so a bus that a module creates before its server forks is connected in each child.
"""

import asyncio
import atexit
import contextlib
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from datetime import datetime, timedelta
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from orchestrator.client.bus import EventBus
from orchestrator.client.handle import SagaHandle
from orchestrator.client.listening import Listening
from orchestrator.client.outcomes.progress import Progress
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import UsageError
from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.commands import Outcome
from orchestrator.settings import Settings

R = TypeVar("R")
Req = TypeVar("Req", bound=DomainEvent)
Comp = TypeVar("Comp", bound=DomainEvent)
Fail = TypeVar("Fail", bound=FailureEvent)
Heard = TypeVar("Heard", bound=DomainEvent)

Connect = Callable[[], Awaitable[EventBus]]
"""Creates the bus that does the work, in the event loop in which it is called."""


class BlockingEventBus:
    """Publishes events and waits for what becomes of them, as `EventBus` does, in code without `await`.

        with BlockingEventBus.connect() as bus:
            completed = bus.execute(MoneyTransfer, MoneyTransferRequested(...))

    Any number of threads may use one bus at once. Ctrl-C, and any other exception that a signal raises, ends the call
    that waits in the main thread, while the saga continues. A process that was forked from one with a bus makes its own
    connection with its first call.

    Args:
        connect: creates the bus that does the work.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: _Connection | None = None
        self._is_closed = False
        self._lock = Lock()
        _buses.add(self)

    @classmethod
    def connect(cls, settings: Settings | None = None, *, catalog: Catalog | None = None) -> Self:
        """Create a bus from the environment's settings, as `EventBus.connect` does.

        The connection is made when a `with` block begins or, without one, by the first call. Without a `with` block,
        the connection is closed by `close`, or when the process exits.
        """
        return cls(lambda: EventBus.connect(settings, catalog=catalog))

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            Unreachable, DefinitionError: as in `EventBus.connect`.
        """
        self._connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls that wait in other threads raise `UsageError`, and so does each later call."""
        with self._lock:
            connection, self._connection, self._is_closed = self._connection, None, True
        if connection is not None:
            connection.close()

    def read(self, event_type: str, payload: str | bytes) -> DomainEvent:
        """Parse an event, as `EventBus.read` does."""
        return self._connected().bus.read(event_type, payload)

    def publish(
        self, event: DomainEvent, *, event_id: str | None = None, time: datetime | None = None
    ) -> "list[BlockingSagaHandle[Any]]":
        """Send an event to every orchestrator that listens to it, as `EventBus.publish` does."""
        connection = self._connected()
        return _handles(connection, connection.run(lambda bus: bus.publish(event, event_id=event_id, time=time)))

    def publish_raw(self, raw: bytes | str) -> "list[BlockingSagaHandle[Any]]":
        """Send another system's message unchanged, as `EventBus.publish_raw` does."""
        connection = self._connected()
        return _handles(connection, connection.run(lambda bus: bus.publish_raw(raw)))

    def publish_envelope(self, raw: bytes | str) -> "list[BlockingSagaHandle[Any]]":
        """Send an event in its envelope without storing dead letters, as `EventBus.publish_envelope` does."""
        connection = self._connected()
        return _handles(connection, connection.run(lambda bus: bus.publish_envelope(raw)))

    def publish_many(
        self, events: Iterable[DomainEvent], *, event_ids: Iterable[str] | None = None, time: datetime | None = None
    ) -> "list[list[BlockingSagaHandle[Any]]]":
        """Send many events, as `EventBus.publish_many` does."""
        connection = self._connected()
        events, ids = list(events), None if event_ids is None else list(event_ids)
        published = connection.run(lambda bus: bus.publish_many(events, event_ids=ids, time=time))
        return [_handles(connection, handles) for handles in published]

    def execute(
        self,
        orchestrator: type[Orchestrator[Req, Comp, Fail]],
        event: Req,
        *,
        event_id: str | None = None,
        time: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> Comp:
        """Publish an event and wait for the result of one of its listeners, as `EventBus.execute` does."""
        return self._connected().run(
            lambda bus: bus.execute(orchestrator, event, event_id=event_id, time=time, timeout=timeout)
        )

    def saga(self, orchestrator: type[Orchestrator[Any, Comp, Any]], event_id: str) -> "BlockingSagaHandle[Comp]":
        """Return a handle to a saga that any process started at any time before, as `EventBus.saga` does."""
        connection = self._connected()
        return BlockingSagaHandle(connection, connection.bus.saga(orchestrator, event_id))

    def next_event(
        self,
        event: type[Heard],
        *,
        matching: Callable[[Heard], bool] | None = None,
        since: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> Heard:
        """Wait for the next event of a type, as `EventBus.next_event` does."""
        return self._connected().run(lambda bus: bus.next_event(event, matching=matching, since=since, timeout=timeout))

    def listening(
        self, event: type[Heard], *, matching: Callable[[Heard], bool] | None = None, since: datetime | None = None
    ) -> "BlockingListening[Heard]":
        """Receive the events of a type one after the other, as `EventBus.listening` does."""
        connection = self._connected()
        return BlockingListening(connection, connection.bus.listening(event, matching=matching, since=since))

    def send(
        self,
        event: DomainEvent,
        *,
        to: type[Orchestrator[Any, Any, Any]],
        triggering_event_id: str,
        event_id: str | None = None,
        time: datetime | None = None,
    ) -> None:
        """Send an event to one saga that waits for it, as `EventBus.send` does."""
        self._connected().run(
            lambda bus: bus.send(event, to=to, triggering_event_id=triggering_event_id, event_id=event_id, time=time)
        )

    def _connected(self) -> "_Connection":
        _refuse_event_loop()
        with self._lock:
            if self._is_closed:
                raise UsageError(_CLOSED)
            if self._connection is None:
                self._connection = _Connection(self._connect)
            return self._connection

    def _forget_connection(self) -> None:
        """Forget the parent's connection after a fork, and a lock that one of its threads may have held."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None
        self._lock = Lock()


class BlockingSagaHandle(Generic[Comp]):
    """Waits for one saga and follows its progress, as `SagaHandle` does. Its attributes are the same."""

    def __init__(self, connection: "_Connection", handle: SagaHandle[Comp]) -> None:
        self._connection = connection
        self._handle = handle
        self.orchestrator = handle.orchestrator
        self.event_id = handle.event_id
        self.workflow_id = handle.workflow_id
        self.run_id = handle.run_id
        self.is_repeat = handle.is_repeat

    def outcome(self, *, timeout: timedelta | None = None) -> Outcome:
        """Wait for the saga's outcome, as `SagaHandle.outcome` does."""
        return self._connection.run(lambda _: self._handle.outcome(timeout=timeout))

    def result(self, *, timeout: timedelta | None = None) -> Comp:
        """Wait for the completed event, as `SagaHandle.result` does."""
        return self._connection.run(lambda _: self._handle.result(timeout=timeout))

    def follow(self) -> Iterator[Progress]:
        """Yield the saga's progress until its execution ends, as `SagaHandle.follow` does."""
        progress = self._handle.follow()
        try:
            while (entry := self._connection.run(lambda _: anext(progress, None))) is not None:
                yield entry
        finally:
            with contextlib.suppress(UsageError):  # the bus was closed, and that ended it
                self._connection.run(lambda _: progress.aclose())


class BlockingListening(Generic[Heard]):
    """Receives each event of a type once, as `Listening` does. Use it as a context manager."""

    def __init__(self, connection: "_Connection", listening: Listening[Heard]) -> None:
        self._connection = connection
        self._listening = listening
        self.event = listening.event

    def __enter__(self) -> Self:
        """Start listening, as `Listening` does."""
        self._connection.run(lambda _: self._listening.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""

    def next(self, *, timeout: timedelta | None = None) -> Heard:
        """Return the next event that matches, as `Listening.next` does."""
        return self._connection.run(lambda _: self._listening.next(timeout=timeout))


_CLOSED = "This bus is closed. Create another one with `BlockingEventBus.connect()`."


class _Connection:
    """A thread with an event loop, and the bus that belongs to it."""

    def __init__(self, connect: Connect) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._is_ended = False
        self._lock = Lock()
        started: Future[EventBus] = Future()
        serving = self._serve(connect, started)
        self._thread = Thread(target=_run_in, args=(self._loop, serving), name="event-bus", daemon=True)
        self._thread.start()
        try:
            self.bus = started.result()
        except BaseException:
            self._ask_to_end()
            if started.done():  # otherwise Ctrl-C came while it connects, and the thread ends when that does
                self._thread.join()
            raise
        # A thread that still runs when the interpreter is finalized may abort the process.
        atexit.register(self.close)

    async def _serve(self, connect: Connect, started: "Future[EventBus]") -> None:
        try:
            bus = await connect()
        except BaseException as fault:
            started.set_exception(fault)
            return
        started.set_result(bus)
        try:
            await self._end.wait()
        finally:
            await bus.close()

    def run(self, call: Callable[[EventBus], Awaitable[R]]) -> R:
        """Run a call in the event loop and wait for its result in this thread."""
        _refuse_event_loop()
        if self._process != os.getpid():
            raise UsageError(
                "This handle or listening was created before this process was forked, and connections do not survive a "
                "fork. Get it again from the bus, for example with `bus.saga(Orchestrator, event_id)`."
            )
        with self._lock:  # what is scheduled before the end is cancelled by it; what comes later would wait for ever
            if self._is_ended:
                raise UsageError(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(_awaited(call, self.bus), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise UsageError(
                "This bus was closed while the call waited; its saga, if there is one, continues."
            ) from None
        except BaseException:  # Ctrl-C, or a time limit that a signal enforces
            future.cancel()
            raise

    def close(self) -> None:
        """Close the bus, end the calls that wait, and end the thread."""
        if self._process != os.getpid():
            return  # the event loop and its sockets are the parent's
        atexit.unregister(self.close)
        self._ask_to_end()
        self._thread.join()

    def _ask_to_end(self) -> None:
        with self._lock:
            self._is_ended = True
            with contextlib.suppress(RuntimeError):  # the event loop has ended, because it could not connect
                self._loop.call_soon_threadsafe(self._end.set)


async def _awaited(call: Callable[[EventBus], Awaitable[R]], bus: EventBus) -> R:
    return await call(bus)


def _run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels at its end whatever still waits
        runner.run(work)


def _handles(connection: _Connection, handles: Iterable[SagaHandle[Any]]) -> list[BlockingSagaHandle[Any]]:
    return [BlockingSagaHandle(connection, handle) for handle in handles]


def _refuse_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        "A BlockingEventBus was called in a thread that runs an event loop, which it would block. Use `EventBus` "
        "there, or call it with `asyncio.to_thread`."
    )


_buses: weakref.WeakSet[BlockingEventBus] = weakref.WeakSet()
_inherited: list[_Connection] = []
"""Connections of the parent process, kept so that nothing of them is closed here: its sockets are shared."""


def _forget_connections() -> None:
    for bus in list(_buses):
        bus._forget_connection()  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_forget_connections)
