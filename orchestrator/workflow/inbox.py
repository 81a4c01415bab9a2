"""The inbox: messages as they came in, raw until somebody looks; events that a saga may wait for are put aside.

Each message is looked at once, and only so many bytes at a time: a workflow task that takes longer than two seconds is
failed, and replayed, for ever.
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
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read
from orchestrator.protocol.unwrapping import id_reused
from orchestrator.workflow.exact_numbers import unwrap_in_execution
from orchestrator.workflow.parking import EventParked

CARRIED = 1024 * 1024
"""Bytes of messages that a run may be begun with."""
_RUN_UPDATES = 1_000
"""Updates of one run; the server refuses the 2,001st."""
_RUN_SIGNALS = 5_000
"""Signals of one run; the server refuses the 10,001st."""
_COUNTED = "signals-are-counted"
LOOKED_AT_ONCE = 2 * 1024 * 1024
"""Bytes of messages that are read before others get their turn; about a tenth of a second."""
_OTHERS_TURN = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message as it came in."""

    source: str
    position: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that the saga may wait for, with the message that it came in."""

    message: Inbound
    envelope: Envelope
    event: DomainEvent


@dataclass(frozen=True, slots=True)
class Fault:
    """A message that is nothing for the saga, and why."""

    message: Inbound
    code: str
    reason: str


class InboxFull(Exception):
    """The run has had about as many messages as the server takes."""


class Inbox:
    """What was sent to one execution.

    Args:
        awaited: events that its saga may wait for.

    Attributes:
        messages: all others, in the order of arrival, once `sort` has looked at them.
    """

    def __init__(self, awaited: Sequence[type[DomainEvent]]) -> None:
        self._awaited = {event.type_name(): event for event in awaited}
        self._marks = [name.encode() for name in self._awaited]
        self._arrived: deque[Inbound] = deque()
        self._letters: list[Letter] = []
        self._known: dict[str, DomainEvent] = {}
        self._faults: list[Fault] = []
        self._count = 0
        self._signals = self._updates = 0
        self._is_full = False
        self.messages: deque[Inbound] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there that somebody would have to look at."""
        return not (self._arrived or self.messages or self._letters or self._faults)

    @property
    def wants_new_run(self) -> bool:
        """Whether the server will take few more messages in this run, and the next can begin with all that is here."""
        return self._is_full and self._size <= CARRIED

    @property
    def _size(self) -> int:
        waiting = (*self._arrived, *self.messages, *(letter.message for letter in self._letters))
        return sum(len(message.raw) for message in waiting)

    def count(self, *, is_update: bool = False) -> None:
        """A signal or an update has come."""
        if is_update:
            self._updates += 1
            self._is_full |= self._updates >= _RUN_UPDATES
            return
        self._signals += 1
        if self._signals == _RUN_SIGNALS:
            # Executions that had as many before they were counted go on as they did.
            self._is_full |= workflow.patched(_COUNTED)

    def receive(self, source: str, arguments: Sequence[RawValue], *, first: bool = False) -> int:
        """Put messages in, behind those that are there or before them; nothing is read here.

        Returns:
            How many.
        """
        came: list[Inbound] = []
        for raw in [argument.payload.data for argument in arguments] or [b""]:
            self._count += 1
            came.append(Inbound(source, self._count, raw))
        if first:
            self._arrived.extendleft(reversed(came))
        else:
            self._arrived.extend(came)
        return len(came)

    async def sort(self) -> None:
        """Look at what has arrived."""
        while not self._look():
            await workflow.sleep(_OTHERS_TURN)

    def received(self, event_id: str, event: DomainEvent | None = None) -> None:
        """The saga has taken this event, here or in another execution: if it comes again it is no news."""
        self._letters = [letter for letter in self._letters if letter.envelope.event_id != event_id]
        if event is not None:
            self._known[event_id] = event

    def leave(self) -> tuple[list[Letter], list[Fault]]:
        """Take out what no saga has taken: events that may still be waited for, and what nobody will."""
        letters, faults = self._letters, self._faults
        self._letters, self._faults = [], []
        return letters, faults

    async def take(
        self, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], timeout: timedelta, *, summary: str
    ) -> Envelope | None:
        """Wait for the first event of a class that matches; None if none came in time. It stays until `received`.

        Raises:
            InboxFull: the next run goes on waiting.
            Exception: what `matching` raised.
        """
        timer = asyncio.ensure_future(workflow.sleep(timeout, summary=summary)) if timeout > timedelta(0) else None
        try:
            while True:
                await self.sort()
                for letter in self._letters:
                    if type(letter.event) is event and matching(letter.event):
                        return letter.envelope
                if timer is None or timer.done():
                    return None
                if self.wants_new_run:
                    raise InboxFull
                await workflow.wait_condition(lambda: bool(self._arrived) or timer.done())
        finally:
            if timer is not None:
                timer.cancel()

    def _look(self) -> bool:
        """Whether everything has been looked at."""
        looked = 0
        while self._arrived:
            message = self._arrived[0]
            if looked and looked + len(message.raw) > LOOKED_AT_ONCE:
                return False
            self._arrived.popleft()
            looked += self._put(message)
        return True

    def _put(self, message: Inbound) -> int:
        """Returns how many bytes were read for it."""
        is_event = message.source in names.EVENT_SOURCES
        if not is_event or not any(mark in message.raw for mark in self._marks):
            self.messages.append(message)
            return 0
        letter = self._letter(message)
        if letter is None:
            self.messages.append(message)
            return len(message.raw)
        event_id = letter.envelope.event_id
        known = self._known.get(event_id)
        if known is None:
            self._known[event_id] = letter.event
            self._letters.append(letter)
        elif known != letter.event:
            reused = id_reused(event_id)
            self._faults.append(Fault(message, reused.code, reused.message))
        return len(message.raw)

    def _letter(self, message: Inbound) -> Letter | None:
        try:
            envelope = read(message.raw)
            event = self._awaited.get(envelope.event_type)
            return None if event is None else Letter(message, envelope, unwrap_in_execution(envelope, event))
        except UnreadableEvent as fault:
            if fault.is_newer:  # its time may be up before a newer worker comes, or not: this one cannot tell
                raise EventParked(fault.message) from fault
            return None  # told when it is taken as what it is
