"""A partition: one long-lived execution that carries many sagas, a wave at a time.

Handlers only append. A wave is one local activity that drives up to fifty sagas with the same `handle` through the same
steps; no line of `handle` is part of a partition's history, so code may change under it. What a wave leaves is taken
again in the order of arrival; an event is let go only when the wave says that it is settled.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

from orchestrator.protocol import names
from orchestrator.protocol.envelope import valid_event_id
from orchestrator.protocol.wave import (
    AWAY,
    SMALL_WAVE,
    WAVE_BYTES,
    WAVE_EVENTS,
    Carried,
    CarriedItem,
    PostponeReason,
    WaveCommand,
    WaveItem,
    WaveReply,
)
from orchestrator.workflow.own_execution import raw_json

R = TypeVar("R")

IDLE = timedelta(minutes=10)
"""Without anything to do for so long, a partition ends; the next event starts it anew."""
_CANCELLED_IDLE = timedelta(milliseconds=300)
"""The same for one that was cancelled."""
_WAVE = timedelta(seconds=20)
"""What a wave may take at the very most; it ends itself long before."""
_TASK_SIGNALS = 80
"""Signals in one workflow task: over about a hundred the server throws the task away, and its waves run again."""
_TASK_SECONDS = 0.5
"""Seconds of waves in one workflow task: while it lasts, the server holds signals back."""
_BOUNDARY = timedelta(milliseconds=1)
"""A timer, so that the task ends: also before the run does, as a message that comes just then would undo the task."""
_CARRIED = 1024 * 1024
"""Bytes that a run is begun with."""
_RUN_SIGNALS = 5_000
"""Signals of one run; the server refuses the 10,001st."""
_RUN_UPDATES = 1_000
"""Updates of one run; the server refuses the 2,001st."""
_FULL_SIGNALS = 6_000
_FULL_UPDATES = 1_200
_FULL_EVENTS = 30_000
_FULL_BYTES = 30 * 1024 * 1024
"""A history so long must end: what does not fit into the next run's beginning is opened in the database first."""
_LONGEST_AWAY = 5.0
"""Seconds between two looks for a database that is away."""
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 10.0
"""Seconds before a saga that was left is taken again."""
_STRANGERS = 1_000
"""Sagas at most that a partition was told of and has not looked at yet; recovery finds the others."""
_TAKEN = "strangers-are-taken"
_HOLDING_TRIES = 20
"""Tries of what cannot be opened, for which those that came later wait."""
_LONGEST_STANDSTILL = 1.0
"""The same for a wave that failed as a whole: whatever came later waits behind it."""


@dataclass(slots=True)
class _Entry:
    """An event that is the partition's."""

    position: int
    """Of its message in the run, as dead letters name it."""
    order: int
    """Of arrival. Not the position: what comes before a run's first task is counted before what the run begins with."""
    door: str
    message: RawValue | None
    """As it came; None if its saga is open: then the database has it."""
    event_id: str | None = None
    failures: int = 0
    losses: int = 0
    tries: int = 0
    due: float = 0.0
    """Not before then, in seconds of workflow time."""

    @property
    def size(self) -> int:
        return 0 if self.message is None else len(self.message.payload.data)


class PartitionExecution:
    """One partition of an orchestrator's events."""

    def __init__(self) -> None:
        self._arrived: deque[_Entry] = deque()
        self._left: list[_Entry] = []
        """In the order of arrival, all of them before whatever is in `_arrived`."""
        self._count = 0
        self._signals = 0
        self._updates = 0
        self._task_signals = 0
        self._task_seconds = 0.0
        self._wakes: int = 0
        self._heard_wakes: int = 0
        self._woken: set[str] = set()
        """Event ids that wakes named, not heeded yet."""
        self._wakes_all = False
        self._failed_waves = self._slow_waves = self._away = 0
        self._idle: asyncio.Task[None] | None = None
        self._busy_at = 0.0
        self._totals = WaveReply()

    def receive(self, door: str, arguments: Sequence[RawValue]) -> None:
        """Take messages in; nothing is read here."""
        self._signals += 1
        self._task_signals += 1
        if door in (names.RETRY_SIGNAL, names.WAKE_SIGNAL):
            self._wakes += 1
            named = [_named(raw) for raw in arguments]
            self._wakes_all |= not named or None in named
            self._woken.update(name for name in named if name is not None)
        else:
            self._arrived.extend(self._entries(door, arguments or [raw_json(b"")]))

    def receive_update(self, arguments: Sequence[RawValue]) -> int:
        """Take messages in that were sent by an update; how many."""
        self._updates += 1
        self._task_signals += 1
        came = self._entries(names.UPDATE_SOURCE, arguments or [raw_json(b"")])
        self._arrived.extend(came)
        return len(came)

    async def take_all(self, arguments: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Take events until none has come for a while, or until a cancel and nothing is left."""
        if workflow.info().continued_run_id:
            self._take_over(arguments)
        else:
            started = self._entries(names.START_SOURCE, arguments)
            _put_first(started)
            self._arrived.extendleft(reversed(started))
        while True:
            await self._go_on_in_another_run()
            wave = self._next_wave()
            if wave:
                await self._drive(wave)
            elif self._left:
                await self._wait(self._next_due() - workflow.time())
            elif await self._is_over():
                return {"done": self._totals.done, "own": self._totals.own, "letters": self._totals.letters}

    def _entries(self, door: str, arguments: Sequence[RawValue]) -> list[_Entry]:
        came: list[_Entry] = []
        for raw in arguments:
            self._count += 1
            came.append(_Entry(self._count, self._count, door, raw))
        return came

    def _next_wave(self, *, unopened: bool = False) -> list[_Entry]:
        """Take out what is due, in the order of arrival.

        The opening draws tickets, so none is opened while one that came earlier is not: it may have the same key.
        """
        self._hear_wakes()
        wave: list[_Entry] = []
        size = 0
        most = max(1, WAVE_EVENTS >> min(self._failed_waves + self._slow_waves, 6))
        now = workflow.time()
        kept: list[_Entry] = []
        is_held = False
        for entry in self._left:
            is_new = entry.message is not None
            is_wanted = is_new if unopened else entry.due <= now
            has_room = len(wave) < most and (not wave or size + entry.size <= WAVE_BYTES)
            if is_wanted and has_room and not (is_new and is_held):
                wave.append(entry)
                size += entry.size
            else:
                is_held |= _holds(entry)
                kept.append(entry)
        self._left = kept
        while self._arrived and not is_held and len(wave) < most:
            if wave and size + self._arrived[0].size > WAVE_BYTES:
                break
            entry = self._arrived.popleft()
            wave.append(entry)
            size += entry.size
        return wave

    def _hear_wakes(self) -> None:
        if self._wakes == self._heard_wakes:
            return
        self._heard_wakes = self._wakes
        if self._wakes_all:
            for entry in self._left:
                entry.due = 0.0
        self._go_on_with(self._woken)
        self._woken, self._wakes_all = set(), False

    def _go_on_with(self, event_ids: Collection[str]) -> None:
        """Take these sagas at once, also those that are not here: the partition that opened them was ended, and this
        one, which has its id, is told in its place."""
        if not event_ids:  # as after nearly every wave
            return
        known = {entry.event_id: entry for entry in self._left}
        strange: list[str] = []
        for event_id in sorted(set(event_ids)):
            if (entry := known.get(event_id)) is not None:
                entry.due = 0.0
            else:
                strange.append(event_id)
        room = _STRANGERS - sum(entry.door == names.WAKE_SIGNAL for entry in self._left)
        # Partitions that were told of others before they took them go on as they did.
        if strange and room > 0 and workflow.patched(_TAKEN):
            # Behind all that has arrived: whoever sends wakes must not keep events waiting.
            taken = [_Entry(0, self._count, names.WAKE_SIGNAL, None, event_id) for event_id in strange[:room]]
            self._merge(taken)

    def _first_new(self) -> _Entry | None:
        """The first of those left whose saga is not open: whatever came later and is not open either waits for it."""
        return next((entry for entry in self._left if _holds(entry)), None)

    def _next_due(self) -> float:
        first_new = self._first_new()
        return min(entry.due for entry in self._left if entry is first_new or first_new is None or not entry.message)

    async def _drive(self, wave: list[_Entry], *, opens_only: bool = False) -> None:
        command = WaveCommand(
            first_run_id=workflow.info().first_execution_run_id,
            places=tuple(
                WaveItem(
                    position=entry.position,
                    door=entry.door,
                    event_id=entry.event_id,
                    failures=entry.failures,
                    losses=entry.losses,
                )
                for entry in wave
            ),
            opens_only=opens_only,
        )
        messages = [entry.message for entry in wave if entry.message is not None]
        trying = workflow.execute_local_activity(
            names.DRIVE_WAVE,
            args=[command, *messages],
            result_type=WaveReply,
            schedule_to_close_timeout=_WAVE,
            retry_policy=RetryPolicy(maximum_attempts=1),
            summary=f"{len(wave)} events",
        )
        try:
            reply = await _steadily(trying)
        except FailureError as failure:
            await self._put_back(wave, failure)
        else:
            self._failed_waves = self._away = 0
            self._heed(wave, reply)
            if not opens_only:  # which reaches none
                self._judge_pace(reply)
        await self._bound(reply_seconds=0.0 if self._failed_waves or self._away else self._totals.seconds)

    async def _put_back(self, wave: list[_Entry], failure: FailureError) -> None:
        """A wave that failed as a whole is taken again: when the database is back, or in smaller parts, since one event
        may be what brings it down."""
        self._merge(wave)
        if isinstance(failure, ApplicationError) and failure.type == AWAY:
            seconds = min(_FIRST_WAIT * 2.0**self._away, _LONGEST_AWAY)
            self._away = min(self._away + 1, 10)
            workflow.set_current_details(f"waits {seconds:.1f} s for the database: {failure.message}")
            await _steadily(workflow.sleep(seconds, summary="the database is away"))
            return
        self._failed_waves += 1
        for entry in wave:
            self._delay(entry, _LONGEST_STANDSTILL)
        workflow.set_current_details(f"a wave of {len(wave)} failed: {failure.cause or failure}")

    def _heed(self, wave: list[_Entry], reply: WaveReply) -> None:
        kept: list[_Entry] = []
        for left in reply.left:
            entry = wave[left.index]
            if left.event_id is not None:
                entry.event_id, entry.message, entry.door = left.event_id, None, ""
            entry.failures += left.why is PostponeReason.FAILED or (
                left.why is PostponeReason.SLOW and len(wave) <= SMALL_WAVE
            )
            entry.losses += left.why is PostponeReason.LOST
            if left.why in (PostponeReason.UNREACHED, PostponeReason.SLOW):
                entry.due = 0.0
            else:
                self._delay(entry)
            kept.append(entry)
        self._merge(kept)
        self._go_on_with(reply.woken)
        self._totals = WaveReply(
            done=self._totals.done + reply.done,
            own=self._totals.own + reply.own,
            letters=self._totals.letters + reply.letters,
            seconds=reply.seconds,
        )

    def _judge_pace(self, reply: WaveReply) -> None:
        if any(left.why in (PostponeReason.SLOW, PostponeReason.UNREACHED) for left in reply.left):
            self._slow_waves = min(self._slow_waves + 1, 4)
        else:
            self._slow_waves = max(self._slow_waves - 1, 0)

    def _delay(self, entry: _Entry, longest: float = _LONGEST_WAIT) -> None:
        entry.due = workflow.time() + min(_FIRST_WAIT * 2.0 ** min(entry.tries, 20), longest)
        entry.tries += 1

    def _merge(self, entries: list[_Entry]) -> None:
        self._left = sorted([*self._left, *entries], key=lambda entry: entry.order)

    async def _bound(self, *, reply_seconds: float) -> None:
        """End the workflow task now and then: only between two tasks does the server hand out what has come."""
        self._task_seconds += reply_seconds
        if self._task_signals >= _TASK_SIGNALS or self._task_seconds >= _TASK_SECONDS:
            self._tell()
            await _steadily(workflow.sleep(_BOUNDARY, summary="boundary"))
            self._task_signals, self._task_seconds = 0, 0.0

    async def _wait(self, seconds: float) -> None:
        """Until something comes, a lock is let go, or it is time."""
        self._tell()
        limit = timedelta(seconds=max(seconds, 0.001))
        is_held = self._first_new() is not None
        await self._until(
            lambda: (bool(self._arrived) and not is_held) or self._wakes > self._heard_wakes,
            limit,
        )

    async def _is_over(self) -> bool:
        """Whether nothing has come for so long that the partition may end.

        One timer is kept for many waits: one for each would be two events in the history for each wave.
        """
        self._tell()
        if workflow.cancellation_reason() is not None:
            return not await self._until(self._has_come, _CANCELLED_IDLE)
        self._busy_at = workflow.time()
        while True:
            if self._idle is None or self._idle.done():
                left = self._busy_at + IDLE.total_seconds() - workflow.time()
                if left <= 0:
                    return True
                self._idle = asyncio.ensure_future(workflow.sleep(left, summary="idle"))
            await self._until(self._is_idle_no_more, None)
            if self._has_come() or workflow.cancellation_reason() is not None:
                return False

    def _has_come(self) -> bool:
        return bool(self._arrived) or self._wakes > self._heard_wakes

    def _is_idle_no_more(self) -> bool:
        is_time = self._idle is not None and self._idle.done()
        return self._has_come() or is_time or workflow.cancellation_reason() is not None

    async def _until(self, condition: Callable[[], bool], limit: timedelta | None) -> bool:
        """Whether it came true in time. A cancel of the execution is told by `cancellation_reason`, not by an error."""
        try:
            await _steadily(workflow.wait_condition(condition, timeout=limit))
        except TimeoutError:
            return False
        # The task that ended is over: what comes from now on is counted anew.
        self._task_signals, self._task_seconds = 0, 0.0
        return True

    def _take_over(self, arguments: Sequence[RawValue]) -> None:
        carried = Carried.model_validate_json(arguments[0].payload.data)
        messages = iter(arguments[1:])
        for place in carried.carried:
            self._count += 1
            entry = _Entry(self._count, self._count, place.door, None if place.event_id else next(messages))
            entry.event_id, entry.failures, entry.tries = place.event_id, place.failures, place.tries
            entry.losses = place.losses
            self._left.append(entry)
        _put_first(self._left)

    async def _go_on_in_another_run(self) -> None:
        """Continue as new before the server's limits, with what is left, all of it or none."""
        info = workflow.info()
        is_due = self._signals >= _RUN_SIGNALS or self._updates >= _RUN_UPDATES
        if not (info.is_continue_as_new_suggested() or is_due):
            return
        length, size = info.get_current_history_length(), info.get_current_history_size()
        is_full = self._signals >= _FULL_SIGNALS or self._updates >= _FULL_UPDATES
        is_full |= length >= _FULL_EVENTS or size >= _FULL_BYTES
        if self._carried_bytes() > _CARRIED:
            if not is_full:
                return
            while self._carried_bytes() > _CARRIED and (wave := self._next_wave(unopened=True)):
                await self._drive(wave, opens_only=True)
                if self._failed_waves or self._away:
                    return
        await _steadily(workflow.sleep(_BOUNDARY, summary="before the next run"))
        self._hear_wakes()
        entries = [*self._left, *self._arrived]
        if self._carried_bytes() > _CARRIED:
            return
        state = Carried(
            carried=tuple(
                CarriedItem(
                    door=one.door,
                    event_id=one.event_id,
                    failures=one.failures,
                    losses=one.losses,
                    tries=one.tries,
                )
                for one in entries
            )
        )
        messages = [one.message for one in entries if one.message is not None]
        workflow.continue_as_new(args=[raw_json(state.model_dump_json(exclude_defaults=True).encode()), *messages])

    def _carried_bytes(self) -> int:
        entries = [*self._left, *self._arrived]
        return sum(entry.size + len(entry.event_id or "") + len(entry.door) + 100 for entry in entries)

    def _tell(self) -> None:
        waiting = len(self._left) + len(self._arrived)
        workflow.set_current_details(
            f"waiting {waiting}, done {self._totals.done}, in executions of their own {self._totals.own}, "
            f"dead letters {self._totals.letters} (of this run). `orchestrator list` shows the sagas."
        )


def _named(raw: RawValue) -> str | None:
    """The event id that a wake names; None: it says something else."""
    try:
        named: object = json.loads(raw.payload.data)
    except (ValueError, RecursionError):
        return None
    return named if isinstance(named, str) and valid_event_id(named) else None


def _put_first(entries: Sequence[_Entry]) -> None:
    """Before whatever came by signal, though that was received first."""
    for order, entry in enumerate(entries, start=-len(entries)):
        entry.order = order


def _holds(entry: _Entry) -> bool:
    """Whether what came later, and is not open either, waits for it: not if it can never be opened."""
    return entry.message is not None and entry.tries < _HOLDING_TRIES


async def _steadily(work: Awaitable[R]) -> R:
    """Await work to its end. A cancel of the execution takes nothing away; `cancellation_reason` tells of it."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.shield(task)
    return task.result()
