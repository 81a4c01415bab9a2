"""The watchdog: a thread that ends a worker process whose event loop, or a thread of whose workflow code, is stuck.

A blocked loop hears no cancel, sends no heartbeat and, on SQLite, may hold the file against every writer. Ending the
process harms nothing: whatever was under way is taken up again by another, or by the one that follows.
"""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from orchestrator.protocol.commands import SagaRef
from orchestrator.worker.process.heart import INTERVAL, Heart
from orchestrator.worker.process.silence import Silence
from orchestrator.worker.process.workflow_threads import WorkflowThreads

EXIT_BLOCKED = 4
WORKFLOW_LIMIT = 5.0
"""Seconds beyond the loop's limit: first the SDK interrupts workflow code, which is mostly enough."""
_LETS_GO = 3.0
"""Seconds for other steps to end once a workflow thread is found stuck."""


class Watchdog:
    """Watches the event loop that it is made in; inside `with`.

    Args:
        heart: beats in that loop.
        threads: where workflow code runs.
        limit: seconds that the loop may be blocked.
        stop: set when a workflow thread is stuck, so that the worker drains.

    Attributes:
        has_barked: a workflow thread is stuck; the process is to end with `EXIT_BLOCKED`, drained or not.
    """

    def __init__(self, heart: Heart, threads: WorkflowThreads, *, limit: float, stop: asyncio.Event) -> None:
        self.has_barked = False
        self._heart = heart
        self._threads = threads
        self._limit = limit
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._off = threading.Event()

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_barked:
            self._off.set()

    def _watch(self) -> None:
        silence = Silence(INTERVAL, time.monotonic())
        activations: dict[tuple[int, float], Silence] = {}
        beats = self._heart.beats
        while not self._off.wait(INTERVAL):
            now = time.monotonic()
            blocked = silence.look(now, heard=self._heart.beats != beats)
            beats = self._heart.beats
            if blocked >= self._limit:
                self._end(f"The event loop was blocked for {blocked:.1f} s{_place_of(self._loop_thread)}")
            running = set(self._threads.running().items())
            activations = {one: activations.get(one) or Silence(INTERVAL, now) for one in running}
            for (thread, _), busy in activations.items():
                if busy.look(now, heard=False) >= self._limit + WORKFLOW_LIMIT:
                    self._let_go(f"Workflow code has not come back for {busy.seconds:.1f} s{_place_of(thread)}")

    def _let_go(self, reason: str) -> None:
        """Let the others end what they are at, then end: the stuck thread never lets the worker drain by itself."""
        self.has_barked = True
        self._loop.call_soon_threadsafe(self._stop.set)
        time.sleep(_LETS_GO)
        self._end(reason)

    def _end(self, reason: str) -> None:
        print(f"{reason}. This worker process ends itself; its threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr)
        os._exit(EXIT_BLOCKED)


def _place_of(thread: int) -> str:
    """What a thread is at: a step of a saga, an orchestrator's `handle`, or else a line."""
    innermost = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    if innermost is None:
        return ""
    for frame in _outwards(innermost):
        command: Any = frame.f_locals.get("command")
        saga = getattr(command, "saga", None)
        if isinstance(saga, SagaRef):
            operation = getattr(command, "operation", type(command).__name__)
            return f" by {operation}, for the saga {saga.orchestrator} of event {saga.event_id}"
        if frame.f_code.co_name == "handle":
            return f" in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f" in {innermost.f_code.co_qualname} ({innermost.f_code.co_filename}:{innermost.f_lineno})"


def _outwards(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back
