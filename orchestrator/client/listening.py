"""Listening for events of one type: those that orchestrators accept or publish, and those that others put in an outbox.

What goes through stands in the tables, so nothing has to be running when it does, and nothing is lost between two
questions: each goes back a minute behind the one before, and what was heard is not told again.
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
from orchestrator.heard import MOST_HEARD, fingerprint, pack, unpack
from orchestrator.protocol.envelope import OUTCOME_SIZE_LIMIT, UnreadableEvent, canonical, read
from orchestrator.protocol.lookup import ASKED_SEEN, OVERLAP, EventEntry, EventFilter, Lookup, LookupReply
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.store.connections.event_loop import LoopBinding

E = TypeVar("E", bound=DomainEvent)

_log = logging.getLogger(__name__)

_LOOKS_BACK = 1.0
"""Seconds between two looks that go back the whole overlap, where more events go through than most questions name."""
_AGAIN = 0.5
"""Seconds between two tries to begin."""


class Listening(Generic[E]):
    """Events of a type as they go through, each once. Use it as a context:

        async with bus.listening(AccountCreationCompleted) as heard:
            await bus.publish(AccountCreated(...))
            completed = await heard.next(timeout=timedelta(seconds=10))

    From its beginning on nothing is missed, whether or not somebody waits in `next` just then.
    """

    def __init__(
        self, log: "EventLog", event: type[E], matching: Callable[[E], bool] | None, since: datetime | None
    ) -> None:
        if since is not None and since.tzinfo is None:
            raise UsageError("`since` has no time zone; write `datetime.now(UTC)`")
        self._log = log
        self._matching = matching
        self._told: deque[EventEntry] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.event = event
        self.floor = since
        """Recorded before it: known, or not wanted. None: not begun."""
        self.seen: dict[bytes, datetime] = {}
        """Fingerprints of events that were heard of, with when those were recorded."""

    async def __aenter__(self) -> Self:
        """Begin: what has been recorded by now is not told, unless a time was given since when it is."""
        self._log.binding.check()
        if self.floor is None:
            known = await self._log.known(self.event.type_name())
            self.know(known)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""

    async def next(self, *, timeout: timedelta | None = None) -> E:
        """The next event that matches.

        Raises:
            NotHeard: none came within the timeout.
            Unreachable: the tables cannot be reached, and never were.
        """
        self._log.binding.check()
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                while True:
                    while self._told:
                        event = self._read(self._told.popleft())
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
            raise EventTimeout(f"no {self.event.type_name()} that matches was heard of within {timeout}") from None

    def know(self, known: LookupReply) -> None:
        """Begin with what an answer has: none of it is told."""
        if known.now is not None:
            self.seen = dict.fromkeys(unpack(known.heard), known.now)
        self.seen |= {fingerprint(one.key): one.recorded_at for one in known.events}
        self.move_floor(known)
        # What is older is not known. (A worker of before fingerprints says no more than so many keys.)
        oldest = known.events[0].recorded_at if len(known.events) >= ASKED_SEEN else known.heard_since
        if oldest is not None and self.floor is not None:
            self.floor = max(self.floor, oldest)

    def move_floor(self, answer: LookupReply) -> None:
        """All of an answer to a question that went back to the floor is known now.

        The floor never comes closer to the present than the overlap: what was recorded since may be committed later.
        """
        if answer.now is None or (answer.has_more and not answer.events):
            return
        floor = answer.now - OVERLAP
        if answer.has_more:
            floor = min(floor, answer.events[-1].recorded_at)
        self.floor = floor if self.floor is None else max(self.floor, floor)
        # Times of another database are converted anew by each look, so they may differ a little from one to the next.
        forgotten = self.floor - OVERLAP
        self.seen = {key: at for key, at in self.seen.items() if at >= forgotten}

    def hear(self, told: EventEntry) -> bool:
        """Take an event, if it is wanted and was not heard of. Returns whether it was taken."""
        is_wanted = told.type == self.event.type_name() and self.floor is not None and told.recorded_at >= self.floor
        key = fingerprint(told.key)
        if not is_wanted or key in self.seen:
            return False
        self.seen[key] = told.recorded_at
        self._told.append(told)
        self.wake()
        return True

    def wake(self) -> None:
        """Whoever waits goes on."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def fail(self, fault: BaseException | None) -> None:
        """Whoever waits hears why nothing comes any more; None: it was closed."""
        if self._waiting is not None and not self._waiting.done():
            if fault is None:
                self._waiting.cancel()
            else:
                self._waiting.set_exception(fault)

    def _read(self, told: EventEntry) -> E | None:
        try:
            return unwrap(read(canonical(told.envelope or {}), limit=OUTCOME_SIZE_LIMIT), self.event)
        except UnreadableEvent as fault:
            _log.warning("%s went through and cannot be read here: %s", told.key, fault)
            return None


class EventLog:
    """What goes through, for any number of listeners with one question at a time.

    Args:
        tables: where it stands.
        binding: the event loop that it belongs to.
    """

    def __init__(self, tables: LookupSource, binding: LoopBinding | None = None) -> None:
        self.binding = binding or LoopBinding("this log of events", "Make one in each event loop.")
        self._tables = tables
        self._listeners: set[Listening[Any]] = set()
        self._looks_back_at = 0.0
        self._asking = Polling(tables, self._look, lambda: bool(self._listeners), self._fail, Backoff(tables.pauses))

    async def known(self, event_type: str) -> LookupReply:
        """What of a type has gone through lately, without what it says."""
        question = Lookup(events=EventFilter(types=(event_type,), keys_only=True, as_fingerprints=True))
        while True:
            try:
                return await self._tables.ask(question)
            except LookupUnavailable:
                await asyncio.sleep(_AGAIN)

    def add(self, listening: Listening[Any]) -> None:
        """Somebody waits."""
        self._listeners.add(listening)
        self._asking.go_on()

    def remove(self, listening: Listening[Any]) -> None:
        """Nobody waits there any more."""
        self._listeners.discard(listening)
        if not self._listeners:
            self._asking.stop()

    async def close(self) -> None:
        """Listen to nothing any more."""
        self._asking.stop()

    async def _look(self) -> bool:
        listeners = list(self._listeners)
        floors = [one.floor for one in listeners if one.floor is not None]
        if not floors:
            return False
        heard = _heard_by_all(min(floors), listeners)
        goes_back = len(heard) <= ASKED_SEEN or monotonic() >= self._looks_back_at
        since = min(floors)
        if len(heard) > (most := MOST_HEARD if goes_back else ASKED_SEEN):
            heard = heard[-most:]
            since = heard[0][0]
        types = tuple(sorted({one.event.type_name() for one in listeners}))
        wanted = EventFilter(types=types, since=since, heard=pack(key for _, key in heard))
        seconds = self._tables.patience if goes_back else min(self._tables.patience, _LOOKS_BACK)
        answer = await self._tables.ask(Lookup(events=wanted, seconds=seconds))
        news = [one.hear(told) for one in listeners for told in answer.events]
        if goes_back:
            # What did not fit into this answer may have been recorded long before its latest event.
            self._looks_back_at = 0.0 if answer.has_more else monotonic() + _LOOKS_BACK
            for one in listeners:
                one.move_floor(answer)
        return any(news)

    def _fail(self, fault: BaseException | None) -> None:
        for one in list(self._listeners):
            one.fail(fault)


def _heard_by_all(floor: datetime, listeners: list[Listening[Any]]) -> list[tuple[datetime, bytes]]:
    """Fingerprints of events that all listeners of their type have heard of, by the time of their recording."""
    return sorted(
        {
            (at, key)
            for one in listeners
            for key, at in one.seen.items()
            if at >= floor and all(key in other.seen for other in listeners if other.event is one.event)
        }
    )
