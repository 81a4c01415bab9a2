"""A partition is a long-lived execution that drives many sagas, one wave at a time.

Handlers only append. A wave is one local activity, which drives up to fifty sagas with the same `handle` and the same
steps as an own execution. No line of `handle` is part of a partition's history, so its code may change at any time. An
event leaves the partition only when a wave has reported that it is settled.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

from orchestrator.protocol import names
from orchestrator.protocol.wave import (
    AWAY,
    SMALL_WAVE,
    WAVE_EVENTS,
    PostponeReason,
    WaveCommand,
    WaveReply,
)
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.partition_queue import Entry, PartitionQueue

R = TypeVar("R")

IDLE = timedelta(minutes=10)
"""How long a partition without work waits before it ends; the next event starts it again."""
_CANCELLED_IDLE = timedelta(milliseconds=300)
"""How long a cancelled partition without work waits before it ends."""
_WAVE = timedelta(seconds=20)
"""The timeout of a wave, which normally ends itself much earlier."""
_TASK_SIGNALS = 80
"""The maximum number of signals in one workflow task. With more than about a hundred the server discards the task, and
its waves run again."""
_TASK_SECONDS = 0.5
"""How many seconds one workflow task may spend on waves, because the server holds signals back while a task runs."""
_BOUNDARY = timedelta(milliseconds=1)
"""The length of the timer that ends a workflow task. The timer also runs before a new run starts, because a message
that arrives at that moment would discard the task."""
_CARRIED = 1024 * 1024
"""The maximum number of bytes with which an execution continues as new."""
_RUN_SIGNALS = 5_000
"""The number of signals after which the execution continues as new; the server refuses the 10,001st."""
_RUN_UPDATES = 1_000
"""The number of updates after which the execution continues as new; the server refuses the 2,001st."""
_FULL_SIGNALS = 6_000
_FULL_UPDATES = 1_200
_FULL_EVENTS = 30_000
_FULL_BYTES = 30 * 1024 * 1024
"""The history sizes from which a new run must be started. Sagas are then first opened in the database, until the rest
of the queue fits into the start of the next run."""
_FIRST_DATABASE_WAIT = 0.1
_LONGEST_DATABASE_WAIT = 5.0
"""The longest wait in seconds between two attempts to reach the database."""
_LONGEST_WAVE_DELAY = 1.0
"""The longest delay in seconds after a wave has failed as a whole, because later events wait for it."""


class PartitionExecution:
    """Runs a partition of an orchestrator's events."""

    def __init__(self) -> None:
        self._queue = PartitionQueue()
        self._signals = 0
        self._updates = 0
        self._task_signals = 0
        self._task_seconds = 0.0
        self._failed_waves = self._slow_waves = self._away = 0
        self._idle: asyncio.Task[None] | None = None
        self._totals = WaveReply()

    def receive(self, source: str, arguments: Sequence[RawValue]) -> None:
        """Append the messages of a signal to the queue without reading them."""
        self._signals += 1
        self._task_signals += 1
        if source in (names.RETRY_SIGNAL, names.WAKE_SIGNAL):
            self._queue.wake(arguments)
        else:
            self._queue.append(source, arguments or [raw_json(b"")])

    def receive_update(self, arguments: Sequence[RawValue]) -> int:
        """Append the messages of an update to the queue, and return their number."""
        self._updates += 1
        self._task_signals += 1
        messages = arguments or [raw_json(b"")]
        self._queue.append(names.UPDATE_SOURCE, messages)
        return len(messages)

    async def take_all(self, arguments: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Drive sagas until the partition has been idle for a while, or has been cancelled and its queue is empty."""
        if workflow.info().continued_run_id:
            self._queue.continue_with(arguments)
        else:
            self._queue.start_with(arguments)
        while True:
            await self._continue_as_new_if_due()
            wave = self._queue.next_wave(self._wave_limit)
            if wave:
                await self._drive(wave)
            elif self._queue.has_postponed:
                await self._wait(self._queue.next_due() - workflow.time())
            elif await self._is_over():
                return {"done": self._totals.done, "own": self._totals.own, "dead_letters": self._totals.dead_letters}

    @property
    def _wave_limit(self) -> int:
        """The maximum number of events in the next wave, which is halved after each failed or slow wave."""
        return max(1, WAVE_EVENTS >> min(self._failed_waves + self._slow_waves, 6))

    async def _drive(self, wave: list[Entry], *, opens_only: bool = False) -> None:
        command = WaveCommand(
            first_run_id=workflow.info().first_execution_run_id,
            items=tuple(entry.item for entry in wave),
            opens_only=opens_only,
        )
        messages = [entry.message for entry in wave if entry.message is not None]
        activity = workflow.execute_local_activity(
            names.DRIVE_WAVE,
            args=[command, *messages],
            result_type=WaveReply,
            schedule_to_close_timeout=_WAVE,
            retry_policy=RetryPolicy(maximum_attempts=1),
            summary=f"{len(wave)} events",
        )
        try:
            reply = await _steadily(activity)
        except FailureError as failure:
            await self._put_back(wave, failure)
        else:
            self._failed_waves = self._away = 0
            self._apply(wave, reply)
            if not opens_only:  # a wave that only opens sagas does not show how long driving them takes
                self._judge_pace(reply)
        await self._end_task_if_due(wave_seconds=0.0 if self._failed_waves or self._away else self._totals.seconds)

    async def _put_back(self, wave: list[Entry], failure: FailureError) -> None:
        """Put the events of a failed wave back into the queue.

        If the database could not be reached, wait for it. Otherwise the next waves are smaller, because a single event
        may have made the whole wave fail.
        """
        self._queue.put_back(wave)
        if isinstance(failure, ApplicationError) and failure.type == AWAY:
            seconds = min(_FIRST_DATABASE_WAIT * 2.0**self._away, _LONGEST_DATABASE_WAIT)
            self._away = min(self._away + 1, 10)
            workflow.set_current_details(f"waits {seconds:.1f} s for the database: {failure.message}")
            await _steadily(workflow.sleep(seconds, summary="the database cannot be reached"))
            return
        self._failed_waves += 1
        for entry in wave:
            entry.delay(_LONGEST_WAVE_DELAY)
        workflow.set_current_details(f"a wave of {len(wave)} failed: {failure.cause or failure}")

    def _apply(self, wave: list[Entry], reply: WaveReply) -> None:
        """Put a wave's postponed sagas back into the queue, make woken sagas due, and update the totals."""
        entries: list[Entry] = []
        for postponed in reply.postponed:
            entry = wave[postponed.index]
            if postponed.event_id is not None:
                entry.event_id, entry.message, entry.source = postponed.event_id, None, ""
            entry.failures += postponed.why is PostponeReason.FAILED or (
                postponed.why is PostponeReason.SLOW and len(wave) <= SMALL_WAVE
            )
            entry.losses += postponed.why is PostponeReason.LOST
            if postponed.why in (PostponeReason.UNREACHED, PostponeReason.SLOW):
                entry.due = 0.0
            else:
                entry.delay()
            entries.append(entry)
        self._queue.put_back(entries)
        self._queue.make_due(reply.woken)
        self._totals = WaveReply(
            done=self._totals.done + reply.done,
            own=self._totals.own + reply.own,
            dead_letters=self._totals.dead_letters + reply.dead_letters,
            seconds=reply.seconds,
        )

    def _judge_pace(self, reply: WaveReply) -> None:
        """Make the next wave smaller if this one did not end in time, and larger again otherwise."""
        if any(postponed.why in (PostponeReason.SLOW, PostponeReason.UNREACHED) for postponed in reply.postponed):
            self._slow_waves = min(self._slow_waves + 1, 4)
        else:
            self._slow_waves = max(self._slow_waves - 1, 0)

    async def _end_task_if_due(self, *, wave_seconds: float) -> None:
        """End the workflow task from time to time, because the server delivers new messages only between tasks."""
        self._task_seconds += wave_seconds
        if self._task_signals >= _TASK_SIGNALS or self._task_seconds >= _TASK_SECONDS:
            self._show_totals()
            await _steadily(workflow.sleep(_BOUNDARY, summary="end of a workflow task"))
            self._task_signals, self._task_seconds = 0, 0.0

    async def _wait(self, seconds: float) -> None:
        """Wait until an event can be opened, a wake signal arrives, or the time has passed."""
        self._show_totals()
        limit = timedelta(seconds=max(seconds, 0.001))
        await self._until(lambda: self._queue.has_openable or self._queue.has_wakes, limit)

    async def _is_over(self) -> bool:
        """Wait for work, and return whether none has arrived for so long that the partition may end.

        One timer serves many waits, because a timer for each would add two events to the history for each wave.
        """
        self._show_totals()
        if workflow.cancellation_reason() is not None:
            return not await self._until(lambda: self._queue.has_news, _CANCELLED_IDLE)
        idle_since = workflow.time()
        while True:
            if self._idle is None or self._idle.done():
                seconds_left = idle_since + IDLE.total_seconds() - workflow.time()
                if seconds_left <= 0:
                    return True
                self._idle = asyncio.ensure_future(workflow.sleep(seconds_left, summary="idle"))
            await self._until(self._is_idle_no_longer, None)
            if self._queue.has_news or workflow.cancellation_reason() is not None:
                return False

    def _is_idle_no_longer(self) -> bool:
        is_time_over = self._idle is not None and self._idle.done()
        return self._queue.has_news or is_time_over or workflow.cancellation_reason() is not None

    async def _until(self, condition: Callable[[], bool], limit: timedelta | None) -> bool:
        """Wait for a condition, and return whether it became true in time. Cancelling the execution raises nothing."""
        try:
            await _steadily(workflow.wait_condition(condition, timeout=limit))
        except TimeoutError:
            return False
        # The wait has ended the workflow task, so the counts start again for the next task.
        self._task_signals, self._task_seconds = 0, 0.0
        return True

    async def _continue_as_new_if_due(self) -> None:
        """Continue as new with the whole queue, before the run reaches the server's limits."""
        info = workflow.info()
        is_due = self._signals >= _RUN_SIGNALS or self._updates >= _RUN_UPDATES
        if not (info.is_continue_as_new_suggested() or is_due):
            return
        length, size = info.get_current_history_length(), info.get_current_history_size()
        is_full = self._signals >= _FULL_SIGNALS or self._updates >= _FULL_UPDATES
        is_full |= length >= _FULL_EVENTS or size >= _FULL_BYTES
        if self._queue.size > _CARRIED:
            if not is_full:
                return
            while self._queue.size > _CARRIED and (wave := self._queue.next_wave(self._wave_limit, only_unopened=True)):
                await self._drive(wave, opens_only=True)
                if self._failed_waves or self._away:
                    return
        await _steadily(workflow.sleep(_BOUNDARY, summary="before the next run"))
        self._queue.handle_wakes()
        if self._queue.size > _CARRIED:
            return
        state, messages = self._queue.carried()
        workflow.continue_as_new(args=[raw_json(state.model_dump_json(exclude_defaults=True).encode()), *messages])

    def _show_totals(self) -> None:
        workflow.set_current_details(
            f"In this run: waiting {len(self._queue)}, done {self._totals.done}, in their own executions "
            f"{self._totals.own}, dead letters {self._totals.dead_letters}. `orchestrator list` shows the sagas."
        )


async def _steadily(work: Awaitable[R]) -> R:
    """Await work until it is done, even if the execution is cancelled, which `cancellation_reason` reports."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.shield(task)
    return task.result()
