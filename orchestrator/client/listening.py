"""Listening for events of one type: those that orchestrators accept or publish, and those that others put in an outbox.

What goes through stands in the tables, so nothing has to be running when it does, and nothing is lost between two
questions: each goes back a minute behind the one before, and what was heard is not told again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from orchestrator.answers import ASKED_SEEN, OVERLAP, Answer, EventsWanted, EventTold, Question
from orchestrator.client.asking import Asking, Backoff
from orchestrator.client.tables import Tables, TablesAway
from orchestrator.envelope import OUTCOME_SIZE_LIMIT, UnreadableEvent, canonical, read, unwrap
from orchestrator.errors import NotHeard, UsageError
from orchestrator.event import DomainEvent

E = TypeVar("E", bound=DomainEvent)

_log = logging.getLogger(__name__)

_REMEMBERED = 20_000
"""Events that a listener knows to have heard."""
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
        self._told: deque[EventTold] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.event = event
        self.floor = since
        """Recorded before it: known, or not wanted. None: not begun."""
        self.seen: dict[str, datetime] = {}

    async def __aenter__(self) -> Self:
        """Begin: what has been recorded by now is not told, unless a time was given since when it is."""
        if self.floor is None:
            known = await self._log.known(self.event.type_name())
            self.seen = {one.key: one.recorded_at for one in known.events}
            self.move_floor(known)
            if len(known.events) >= ASKED_SEEN and self.floor is not None:
                self.floor = max(self.floor, known.events[0].recorded_at)  # what is older is not known
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
            raise NotHeard(f"no {self.event.type_name()} that matches was heard of within {timeout}") from None

    def move_floor(self, answer: Answer) -> None:
        """All of an answer is known now."""
        if answer.has_more:
            self.floor = max(one.recorded_at for one in answer.events)
        elif answer.now is not None:
            floor = answer.now - OVERLAP
            self.floor = floor if self.floor is None else max(self.floor, floor)

    def hear(self, told: EventTold) -> None:
        """Take an event, if it is wanted and was not heard of."""
        is_wanted = told.type == self.event.type_name() and self.floor is not None and told.recorded_at >= self.floor
        if not is_wanted or told.key in self.seen:
            return
        self.seen[told.key] = told.recorded_at
        while len(self.seen) > _REMEMBERED:
            del self.seen[next(iter(self.seen))]
        self._told.append(told)
        self.wake()

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

    def _read(self, told: EventTold) -> E | None:
        try:
            return unwrap(read(canonical(told.envelope or {}), limit=OUTCOME_SIZE_LIMIT), self.event)
        except UnreadableEvent as fault:
            _log.warning("%s went through and cannot be read here: %s", told.key, fault)
            return None


class EventLog:
    """What goes through, for any number of listeners with one question at a time.

    Args:
        tables: where it stands.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._listeners: set[Listening[Any]] = set()
        self._asking = Asking(tables, self._look, lambda: bool(self._listeners), self._fail, Backoff(tables.pauses))

    async def known(self, event_type: str) -> Answer:
        """What of a type has gone through lately, without what it says."""
        question = Question(events=EventsWanted(types=(event_type,), keys_only=True))
        while True:
            try:
                return await self._tables.ask(question)
            except TablesAway:
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
        since, seen = _asked(min(floors), listeners)
        types = tuple(sorted({one.event.type_name() for one in listeners}))
        wanted = EventsWanted(types=types, since=since, seen=seen)
        answer = await self._tables.ask(Question(events=wanted, seconds=self._tables.patience))
        for one in listeners:
            for told in answer.events:
                one.hear(told)
            one.move_floor(answer)
        return bool(answer.events)

    def _fail(self, fault: BaseException | None) -> None:
        for one in list(self._listeners):
            one.fail(fault)


def _asked(floor: datetime, listeners: list[Listening[Any]]) -> tuple[datetime, frozenset[str]]:
    """Since when is asked, and what all of them know of it. Of very many a question goes back less far."""
    known = {
        key: at
        for one in listeners
        for key, at in one.seen.items()
        if at >= floor and all(key in other.seen for other in listeners if other.event is one.event)
    }
    if len(known) <= ASKED_SEEN:
        return floor, frozenset(known)
    latest = sorted(known.items(), key=lambda one: one[1])[-ASKED_SEEN:]
    return latest[0][1], frozenset(key for key, _ in latest)
