"""Listens for events of one type: those that orchestrators accept or publish, and those in an outbox.

All of these are in the tables, so a listener misses nothing between two lookups. Each lookup goes back a minute before
the previous one, because transactions may commit late, and events that were already received are skipped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from orchestrator.client.outcomes.lookup import LookupSource, LookupUnavailable
from orchestrator.client.outcomes.polling import Backoff, Polling
from orchestrator.errors import EventTimeout, UsageError
from orchestrator.event import DomainEvent
from orchestrator.protocol.lookup import LOOKUP_KEYS, OVERLAP, EventEntry, EventFilter, Lookup, LookupReply
from orchestrator.protocol.messages.envelope import OUTCOME_SIZE_LIMIT, UnreadableEvent, canonical, read
from orchestrator.protocol.messages.fingerprints import FINGERPRINTS_LIMIT, fingerprint, pack, unpack
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.store.connections.event_loop import LoopBinding

E = TypeVar("E", bound=DomainEvent)

_log = logging.getLogger(__name__)

_FULL_LOOKUP_INTERVAL = 1.0
"""Seconds between lookups over the whole overlap, if there are more recent events than a usual lookup can exclude."""
_RETRY_PAUSE = 0.5
"""Seconds between two attempts to start listening."""


class Listening(Generic[E]):
    """Receives each event of a type once, as it is recorded. Use it as a context manager:

        async with bus.listening(AccountCreationCompleted) as heard:
            await bus.publish(AccountCreated(...))
            completed = await heard.next(timeout=timedelta(seconds=10))

    Once the block has started, no event is missed, even while no call of `next` is waiting.
    """

    def __init__(
        self, log: "EventLog", event: type[E], matching: Callable[[E], bool] | None, since: datetime | None
    ) -> None:
        if since is not None and since.tzinfo is None:
            raise UsageError("`since` has no time zone; write `datetime.now(UTC)`")
        self._log = log
        self._matching = matching
        self._received: deque[EventEntry] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.event = event
        self.floor = since
        """Events recorded before this time are skipped, because they are known or not wanted. None before the start."""
        self.seen: dict[bytes, datetime] = {}
        """Fingerprints of the events that were received, with the time at which each was recorded."""

    async def __aenter__(self) -> Self:
        """Start listening. Events recorded before now are not reported, unless `since` asks for them."""
        self._log.binding.check()
        if self.floor is None:
            self.skip(await self._log.known(self.event.type_name()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""

    async def next(self, *, timeout: timedelta | None = None) -> E:
        """Return the next event that matches.

        Raises:
            EventTimeout: no matching event was recorded within the timeout.
            Unreachable: the tables could not be reached even once.
        """
        self._log.binding.check()
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                while True:
                    while self._received:
                        event = self._read(self._received.popleft())
                        if event is not None and (self._matching is None or self._matching(event)):
                            return event
                    self._waiting = asyncio.get_running_loop().create_future()
                    try:
                        self._log.add(self)
                        await self._waiting
                    finally:
                        self._waiting = None
                        self._log.remove(self)
        except TimeoutError:
            raise EventTimeout(f"no matching {self.event.type_name()} was recorded within {timeout}") from None

    def skip(self, known: LookupReply) -> None:
        """Start after the events in a reply, none of which is reported."""
        if known.now is not None:
            self.seen = dict.fromkeys(unpack(known.fingerprints), known.now)
        self.seen |= {fingerprint(entry.key): entry.recorded_at for entry in known.events}
        self.raise_floor(known)
        # Older events are unknown. (A worker from before there were fingerprints returns at most this many keys.)
        oldest = known.events[0].recorded_at if len(known.events) >= LOOKUP_KEYS else known.fingerprints_since
        if oldest is not None and self.floor is not None:
            self.floor = max(self.floor, oldest)

    def raise_floor(self, reply: LookupReply) -> None:
        """Raise the floor after a reply to a lookup that went back to the floor.

        The floor stays behind the present by the overlap, because later events may commit with a delay.
        """
        if reply.now is None or (reply.has_more and not reply.events):
            return
        floor = reply.now - OVERLAP
        if reply.has_more:
            floor = min(floor, reply.events[-1].recorded_at)
        self.floor = floor if self.floor is None else max(self.floor, floor)
        # Each lookup converts the times of remote databases again, so they may differ slightly between lookups.
        forgotten = self.floor - OVERLAP
        self.seen = {key: at for key, at in self.seen.items() if at >= forgotten}

    def receive(self, entry: EventEntry) -> bool:
        """Receive an event unless it is unwanted or was received before. Returns whether it was received."""
        is_wanted = entry.type == self.event.type_name() and self.floor is not None and entry.recorded_at >= self.floor
        key = fingerprint(entry.key)
        if not is_wanted or key in self.seen:
            return False
        self.seen[key] = entry.recorded_at
        self._received.append(entry)
        self.wake()
        return True

    def wake(self) -> None:
        """Wake the call of `next` that waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def fail(self, fault: BaseException | None) -> None:
        """End the call of `next` that waits with an error, or cancel it if there is none."""
        if self._waiting is not None and not self._waiting.done():
            if fault is None:
                self._waiting.cancel()
            else:
                self._waiting.set_exception(fault)

    def _read(self, entry: EventEntry) -> E | None:
        try:
            return unwrap(read(canonical(entry.envelope or {}), limit=OUTCOME_SIZE_LIMIT), self.event)
        except UnreadableEvent as fault:
            _log.warning("The event %s cannot be read here and is skipped: %s", entry.key, fault)
            return None


class EventLog:
    """Looks up recorded events for any number of listeners, with one lookup at a time.

    Args:
        source: answers the lookups.
        binding: the event loop that this object belongs to.
    """

    def __init__(self, source: LookupSource, binding: LoopBinding | None = None) -> None:
        self.binding = binding or LoopBinding("this log of events", "Create one in each event loop.")
        self._source = source
        self._listeners: set[Listening[Any]] = set()
        self._next_full_lookup = 0.0
        self._polling = Polling(source, self._look, lambda: bool(self._listeners), self._fail, Backoff(source.pauses))

    async def known(self, event_type: str) -> LookupReply:
        """Return the recent events of a type without their content."""
        lookup = Lookup(events=EventFilter(types=(event_type,), keys_only=True, as_fingerprints=True))
        while True:
            try:
                return await self._source.ask(lookup)
            except LookupUnavailable:
                await asyncio.sleep(_RETRY_PAUSE)

    def add(self, listening: Listening[Any]) -> None:
        """Add a listener that waits for an event."""
        self._listeners.add(listening)
        self._polling.include_new_caller()

    def remove(self, listening: Listening[Any]) -> None:
        """Remove a listener that no longer waits."""
        self._listeners.discard(listening)
        if not self._listeners:
            self._polling.stop()

    async def close(self) -> None:
        """Stop polling, and cancel the listeners that wait."""
        self._polling.stop()

    async def _look(self) -> bool:
        listeners = list(self._listeners)
        floors = [listener.floor for listener in listeners if listener.floor is not None]
        if not floors:
            return False
        known = _received_by_all(min(floors), listeners)
        is_full = len(known) <= LOOKUP_KEYS or monotonic() >= self._next_full_lookup
        since = min(floors)
        if len(known) > (limit := FINGERPRINTS_LIMIT if is_full else LOOKUP_KEYS):
            known = known[-limit:]
            since = known[0][0]
        types = tuple(sorted({listener.event.type_name() for listener in listeners}))
        wanted = EventFilter(types=types, since=since, known=pack(key for _, key in known))
        seconds = self._source.patience if is_full else min(self._source.patience, _FULL_LOOKUP_INTERVAL)
        reply = await self._source.ask(Lookup(events=wanted, seconds=seconds))
        news = [listener.receive(entry) for listener in listeners for entry in reply.events]
        if is_full:
            # Events that did not fit into this reply may have been recorded long before its latest one.
            self._next_full_lookup = 0.0 if reply.has_more else monotonic() + _FULL_LOOKUP_INTERVAL
            for listener in listeners:
                listener.raise_floor(reply)
        return any(news)

    def _fail(self, fault: BaseException | None) -> None:
        for listener in list(self._listeners):
            listener.fail(fault)


def _received_by_all(floor: datetime, listeners: list[Listening[Any]]) -> list[tuple[datetime, bytes]]:
    """Return the fingerprints of events that all listeners of their type have received, by the time of recording."""
    return sorted(
        {
            (at, key)
            for listener in listeners
            for key, at in listener.seen.items()
            if at >= floor and all(key in other.seen for other in listeners if other.event is listener.event)
        }
    )
