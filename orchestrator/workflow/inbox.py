"""The inbox of an execution stores raw messages, and sorts out the events that a saga may wait for.

Each message is sorted once, and each workflow task sorts only a limited number of bytes, because a task that takes
longer than two seconds is failed and replayed forever.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue

from orchestrator.event import DomainEvent
from orchestrator.protocol import names
from orchestrator.protocol.messages.dead_letters import Inbound
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read
from orchestrator.protocol.messages.unwrapping import id_reused
from orchestrator.workflow.exact_numbers import unwrap_in_execution
from orchestrator.workflow.parking import EventParked

CARRIED = 1024 * 1024
"""The maximum number of bytes of messages with which an execution continues as new."""
_RUN_UPDATES = 1_000
"""The number of updates after which the execution continues as new; the server refuses the 2,001st."""
_RUN_SIGNALS = 5_000
"""The number of signals after which the execution continues as new; the server refuses the 10,001st."""
_COUNTED = "signals-are-counted"
SORTED_AT_ONCE = 2 * 1024 * 1024
"""The maximum number of bytes of messages that one workflow task sorts, which takes about a tenth of a second."""
_PAUSE = timedelta(milliseconds=1)
"""The length of the timer that ends the workflow task, so that other executions are served."""


@dataclass(frozen=True, slots=True)
class AwaitedEvent:
    """An event that the saga may wait for, with its message."""

    message: Inbound
    envelope: Envelope
    event: DomainEvent


@dataclass(frozen=True, slots=True)
class Fault:
    """A message that the saga cannot use, and the reason."""

    message: Inbound
    code: str
    reason: str


class InboxFull(Exception):
    """The run has received almost as many messages as the server accepts for a run."""


class Inbox:
    """The messages that were sent to one execution.

    Args:
        awaited: the classes of events that the saga may wait for.

    Attributes:
        messages: the messages that `sort` has found not to be awaited events, in the order of arrival.
    """

    def __init__(self, awaited: Sequence[type[DomainEvent]]) -> None:
        self._awaited = {event.type_name(): event for event in awaited}
        self._marks = [name.encode() for name in self._awaited]
        self._arrived: deque[Inbound] = deque()
        self._awaited_events: list[AwaitedEvent] = []
        self._known: dict[str, DomainEvent] = {}
        self._faults: list[Fault] = []
        self._count = 0
        self._signals = self._updates = 0
        self._is_full = False
        self.messages: deque[Inbound] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether the inbox contains no message and no fault."""
        return not (self._arrived or self.messages or self._awaited_events or self._faults)

    @property
    def wants_new_run(self) -> bool:
        """Whether the run has almost as many messages as the server accepts, and the inbox fits into the next run."""
        return self._is_full and self._size <= CARRIED

    @property
    def _size(self) -> int:
        messages = (*self._arrived, *self.messages, *(awaited.message for awaited in self._awaited_events))
        return sum(len(message.raw) for message in messages)

    def count(self, *, is_update: bool = False) -> None:
        """Count a signal or an update that has arrived."""
        if is_update:
            self._updates += 1
            self._is_full |= self._updates >= _RUN_UPDATES
            return
        self._signals += 1
        if self._signals == _RUN_SIGNALS:
            # Executions from before the patch did not count signals, and must replay as they ran.
            self._is_full |= workflow.patched(_COUNTED)

    def receive(self, source: str, arguments: Sequence[RawValue], *, first: bool = False) -> int:
        """Append messages without reading them, or insert them before all others.

        Returns:
            The number of messages.
        """
        messages: list[Inbound] = []
        for raw in [argument.payload.data for argument in arguments] or [b""]:
            self._count += 1
            messages.append(Inbound(source, self._count, raw))
        if first:
            self._arrived.extendleft(reversed(messages))
        else:
            self._arrived.extend(messages)
        return len(messages)

    async def sort(self) -> None:
        """Sort the messages that have arrived into awaited events, faults and other messages."""
        while not self._sort_some():
            await workflow.sleep(_PAUSE)

    def received(self, event_id: str, event: DomainEvent | None = None) -> None:
        """Remove an event that the saga has received, perhaps in an earlier run, so that a copy counts as a repeat."""
        self._awaited_events = [awaited for awaited in self._awaited_events if awaited.envelope.event_id != event_id]
        if event is not None:
            self._known[event_id] = event

    def take_unawaited(self) -> tuple[list[AwaitedEvent], list[Fault]]:
        """Remove and return the events that the saga has not received, and the faults."""
        awaited_events, faults = self._awaited_events, self._faults
        self._awaited_events, self._faults = [], []
        return awaited_events, faults

    async def take(
        self, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], timeout: timedelta, *, summary: str
    ) -> Envelope | None:
        """Wait for the first matching event, and return it; return None if none arrives in time.

        The event stays in the inbox until `received` is called.

        Raises:
            InboxFull: the wait must continue in a new run.
            Exception: `matching` raised it.
        """
        timer = asyncio.ensure_future(workflow.sleep(timeout, summary=summary)) if timeout > timedelta(0) else None
        try:
            while True:
                await self.sort()
                for awaited in self._awaited_events:
                    if type(awaited.event) is event and matching(awaited.event):
                        return awaited.envelope
                if timer is None or timer.done():
                    return None
                if self.wants_new_run:
                    raise InboxFull
                await workflow.wait_condition(lambda: bool(self._arrived) or timer.done())
        finally:
            if timer is not None:
                timer.cancel()

    def _sort_some(self) -> bool:
        """Sort as many messages as one workflow task may sort, and return whether none remain."""
        size = 0
        while self._arrived:
            message = self._arrived[0]
            if size and size + len(message.raw) > SORTED_AT_ONCE:
                return False
            self._arrived.popleft()
            size += self._sort_message(message)
        return True

    def _sort_message(self, message: Inbound) -> int:
        """Classify one message, and return how many bytes had to be parsed."""
        is_event = message.source in names.EVENT_SOURCES
        if not is_event or not any(mark in message.raw for mark in self._marks):
            self.messages.append(message)
            return 0
        awaited = self._awaited_event(message)
        if awaited is None:
            self.messages.append(message)
            return len(message.raw)
        event_id = awaited.envelope.event_id
        known = self._known.get(event_id)
        if known is None:
            self._known[event_id] = awaited.event
            self._awaited_events.append(awaited)
        elif known != awaited.event:
            reused = id_reused(event_id)
            self._faults.append(Fault(message, reused.code, reused.message))
        return len(message.raw)

    def _awaited_event(self, message: Inbound) -> AwaitedEvent | None:
        try:
            envelope = read(message.raw)
            event_class = self._awaited.get(envelope.event_type)
            if event_class is None:
                return None
            return AwaitedEvent(message, envelope, unwrap_in_execution(envelope, event_class))
        except UnreadableEvent as fault:
            if fault.is_newer:  # only a newer worker can decide whether the saga receives the event in time
                raise EventParked(fault.message) from fault
            return None  # the fault is reported when the message is processed like any other
