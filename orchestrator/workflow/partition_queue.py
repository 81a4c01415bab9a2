"""The queue of a partition contains the events that it has not settled, in the order of arrival, and when each is due.

The queue decides what the next wave contains. It starts no activity and awaits nothing.
"""

import json
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from temporalio import workflow
from temporalio.common import RawValue

from orchestrator.protocol import names
from orchestrator.protocol.messages.envelope import valid_event_id
from orchestrator.protocol.wave import WAVE_BYTES, Carried, CarriedItem, WaveItem

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
"""The longest delay in seconds before a postponed saga is included in another wave."""
_WOKEN_UNKNOWN = 1_000
"""The maximum number of sagas in the queue that are known only from a wake signal. Recovery finds any others."""
_UNKNOWN_ARE_DRIVEN = "unknown-sagas-are-driven"
"""The patch with which a wake signal makes a partition drive sagas that it does not know."""
_BLOCKING_TRIES = 20
"""The number of attempts to open a saga during which later events wait for it."""


@dataclass(slots=True)
class Entry:
    """An event that the partition has not settled."""

    position: int
    """The position of the event's message among those of the run, as dead letters show it."""
    order: int
    """The order of arrival. It differs from the position, because signals before a run's first task are counted before
    the run's arguments."""
    source: str
    message: RawValue | None
    """The message as it arrived; None if the saga is open, because the database then has the event."""
    event_id: str | None = None
    failures: int = 0
    losses: int = 0
    tries: int = 0
    due: float = 0.0
    """The earliest workflow time at which the saga can be included in another wave."""

    @property
    def size(self) -> int:
        """The size of the message in bytes."""
        return 0 if self.message is None else len(self.message.payload.data)

    @property
    def blocks_later(self) -> bool:
        """Whether unopened events that arrived later wait for this one. They stop waiting if it cannot be opened."""
        return self.message is not None and self.tries < _BLOCKING_TRIES

    @property
    def item(self) -> WaveItem:
        """The entry as an item of a wave."""
        return WaveItem(
            position=self.position,
            source=self.source,
            event_id=self.event_id,
            failures=self.failures,
            losses=self.losses,
        )

    def delay(self, longest: float = _LONGEST_DELAY) -> None:
        """Delay the saga with exponential backoff."""
        self.due = workflow.time() + min(_FIRST_DELAY * 2.0 ** min(self.tries, 20), longest)
        self.tries += 1


class PartitionQueue:
    """The events of one run of a partition, with the wake signals that concern them."""

    def __init__(self) -> None:
        self._arrived: deque[Entry] = deque()
        self._postponed: list[Entry] = []
        """The entries that waves have postponed, in the order of arrival. All of them arrived before those in
        `_arrived`."""
        self._count = 0
        self._wakes = 0
        self._wakes_handled = 0
        self._woken: set[str] = set()
        """The event ids in the wake signals since the last wave."""
        self._wakes_all = False

    def __len__(self) -> int:
        return len(self._postponed) + len(self._arrived)

    @property
    def has_news(self) -> bool:
        """Whether an event or a wake signal has arrived."""
        return bool(self._arrived) or self.has_wakes

    @property
    def has_wakes(self) -> bool:
        """Whether a wake signal has arrived that is not handled yet."""
        return self._wakes > self._wakes_handled

    @property
    def has_openable(self) -> bool:
        """Whether an event has arrived that need not wait for an earlier one."""
        return bool(self._arrived) and self._first_blocking() is None

    @property
    def has_postponed(self) -> bool:
        """Whether waves have postponed any saga."""
        return bool(self._postponed)

    @property
    def size(self) -> int:
        """The approximate size in bytes of what the next run must be started with."""
        entries = [*self._postponed, *self._arrived]
        return sum(entry.size + len(entry.event_id or "") + len(entry.source) + 100 for entry in entries)

    def wake(self, arguments: Sequence[RawValue]) -> None:
        """Record a wake or retry signal. It concerns the sagas whose event ids it contains, by default all sagas."""
        self._wakes += 1
        event_ids = [_event_id(raw) for raw in arguments]
        self._wakes_all |= not event_ids or None in event_ids
        self._woken.update(event_id for event_id in event_ids if event_id is not None)

    def append(self, source: str, messages: Sequence[RawValue]) -> None:
        """Append messages without reading them."""
        self._arrived.extend(self._entries(source, messages))

    def start_with(self, messages: Sequence[RawValue]) -> None:
        """Insert the start arguments before all others, even if signals were received before them."""
        entries = self._entries(names.START_SOURCE, messages)
        _put_first(entries)
        self._arrived.extendleft(reversed(entries))

    def continue_with(self, arguments: Sequence[RawValue]) -> None:
        """Insert the events that the previous run has passed on before all others."""
        carried = Carried.model_validate_json(arguments[0].payload.data)
        messages = iter(arguments[1:])
        for item in carried.carried:
            self._count += 1
            entry = Entry(self._count, self._count, item.source, None if item.event_id else next(messages))
            entry.event_id, entry.failures, entry.tries = item.event_id, item.failures, item.tries
            entry.losses = item.losses
            self._postponed.append(entry)
        _put_first(self._postponed)

    def carried(self) -> tuple[Carried, list[RawValue]]:
        """Return the state for the next run, and the messages of unopened events."""
        entries = [*self._postponed, *self._arrived]
        items = tuple(
            CarriedItem(
                source=entry.source,
                event_id=entry.event_id,
                failures=entry.failures,
                losses=entry.losses,
                tries=entry.tries,
            )
            for entry in entries
        )
        return Carried(carried=items), [entry.message for entry in entries if entry.message is not None]

    def next_wave(self, limit: int, *, only_unopened: bool = False) -> list[Entry]:
        """Remove and return up to `limit` entries that are due, in the order of arrival.

        An event is never opened before an earlier one, because opening decides the order of sagas with the same key.
        """
        self.handle_wakes()
        wave: list[Entry] = []
        size = 0
        now = workflow.time()
        postponed: list[Entry] = []
        is_blocked = False
        for entry in self._postponed:
            is_unopened = entry.message is not None
            is_wanted = is_unopened if only_unopened else entry.due <= now
            has_room = len(wave) < limit and (not wave or size + entry.size <= WAVE_BYTES)
            if is_wanted and has_room and not (is_unopened and is_blocked):
                wave.append(entry)
                size += entry.size
            else:
                is_blocked |= entry.blocks_later
                postponed.append(entry)
        self._postponed = postponed
        while self._arrived and not is_blocked and len(wave) < limit:
            if wave and size + self._arrived[0].size > WAVE_BYTES:
                break
            entry = self._arrived.popleft()
            wave.append(entry)
            size += entry.size
        return wave

    def handle_wakes(self) -> None:
        """Make the sagas in the wake signals due."""
        if not self.has_wakes:
            return
        self._wakes_handled = self._wakes
        if self._wakes_all:
            for entry in self._postponed:
                entry.due = 0.0
        self.make_due(self._woken)
        self._woken, self._wakes_all = set(), False

    def make_due(self, event_ids: Collection[str]) -> None:
        """Make sagas due immediately.

        Unknown sagas are added, because an execution with this partition's id may have opened them before it was ended.
        """
        if not event_ids:
            return
        known = {entry.event_id: entry for entry in self._postponed}
        unknown: list[str] = []
        for event_id in sorted(set(event_ids)):
            if (entry := known.get(event_id)) is not None:
                entry.due = 0.0
            else:
                unknown.append(event_id)
        room = _WOKEN_UNKNOWN - sum(entry.source == names.WAKE_SIGNAL for entry in self._postponed)
        # Partitions from before the patch must replay as they ran.
        if unknown and room > 0 and workflow.patched(_UNKNOWN_ARE_DRIVEN):
            # They are last in the queue, so that wake signals cannot delay events.
            self.put_back([Entry(0, self._count, names.WAKE_SIGNAL, None, event_id) for event_id in unknown[:room]])

    def next_due(self) -> float:
        """Return the workflow time at which the next postponed saga is due."""
        blocking = self._first_blocking()
        return min(entry.due for entry in self._postponed if entry is blocking or blocking is None or not entry.message)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put entries back into the queue, in the order of their arrival."""
        self._postponed = sorted([*self._postponed, *entries], key=lambda entry: entry.order)

    def _first_blocking(self) -> Entry | None:
        """Return the first postponed entry that later unopened events wait for."""
        return next((entry for entry in self._postponed if entry.blocks_later), None)

    def _entries(self, source: str, messages: Sequence[RawValue]) -> list[Entry]:
        entries: list[Entry] = []
        for message in messages:
            self._count += 1
            entries.append(Entry(self._count, self._count, source, message))
        return entries


def _event_id(raw: RawValue) -> str | None:
    """Return the event id in an argument of a wake signal; None if it is not an event id."""
    try:
        event_id: object = json.loads(raw.payload.data)
    except (ValueError, RecursionError):
        return None
    return event_id if isinstance(event_id, str) and valid_event_id(event_id) else None


def _put_first(entries: Sequence[Entry]) -> None:
    """Order entries before any that arrived by a signal, even if the signal was received first."""
    for order, entry in enumerate(entries, start=-len(entries)):
        entry.order = order
