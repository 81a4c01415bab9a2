"""The watchdog: a thread that ends its worker process if the event loop or a workflow thread is blocked.

A blocked event loop receives no cancellation, sends no heartbeat and, on SQLite, may lock the file for every other
writer. Ending the process is safe, because another worker process, or its replacement, continues its work.
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
"""How many seconds beyond the event loop's limit an activation may take; the SDK usually interrupts it before that."""
_GRACE = 3.0
"""How many seconds other steps have to end once a workflow thread is blocked."""


class Watchdog:
    """A context manager that watches the event loop in which it is created.

    Args:
        heart: the heart that beats in that event loop.
        threads: the threads in which workflow code runs.
        limit: the number of seconds for which the event loop may be blocked.
        stop: the event to set when a workflow thread is blocked, so that the worker drains.

    Attributes:
        has_barked: whether a workflow thread is blocked. Then the process ends with `EXIT_BLOCKED`, drained or not.
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
                self._end(f"The event loop was blocked for {blocked:.1f} s{_describe_code(self._loop_thread)}")
            running = set(self._threads.running().items())
            activations = {key: activations.get(key) or Silence(INTERVAL, now) for key in running}
            for (thread, _), busy in activations.items():
                if busy.look(now, heard=False) >= self._limit + WORKFLOW_LIMIT:
                    self._drain_and_end(
                        f"Workflow code has not returned for {busy.seconds:.1f} s{_describe_code(thread)}"
                    )

    def _drain_and_end(self, reason: str) -> None:
        """Give other steps time to end, then end the process, because a process with a blocked thread never drains."""
        self.has_barked = True
        self._loop.call_soon_threadsafe(self._stop.set)
        time.sleep(_GRACE)
        self._end(reason)

    def _end(self, reason: str) -> None:
        print(f"{reason}. This worker process ends itself. Its threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr)
        os._exit(EXIT_BLOCKED)


def _describe_code(thread: int) -> str:
    """Describe what a thread is running: a saga's step, an orchestrator's `handle`, or any function and its line."""
    innermost = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    if innermost is None:
        return ""
    for frame in _enclosing_frames(innermost):
        command: Any = frame.f_locals.get("command")
        saga = getattr(command, "saga", None)
        if isinstance(saga, SagaRef):
            operation = getattr(command, "operation", type(command).__name__)
            return f" by {operation}, for the saga {saga.orchestrator} of event {saga.event_id}"
        if frame.f_code.co_name == "handle":
            return f" in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f" in {innermost.f_code.co_qualname} ({innermost.f_code.co_filename}:{innermost.f_lineno})"


def _enclosing_frames(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back
