"""The threads in which workflow code runs, with the start time of each running activation.

Temporal's SDK gives an activation two seconds, then fails the task and raises an exception in its thread. Code that
swallows that exception, or never returns from C code, occupies its thread and most of the interpreter's time forever.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 500
"""The maximum number of threads, which is the SDK's default. A thread is created only when it is needed."""


class WorkflowThreads(ThreadPoolExecutor):
    """An executor that knows when each running activation began."""

    def __init__(self) -> None:
        super().__init__(max_workers=_THREADS, thread_name_prefix="workflow")
        self._began: dict[int, float] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in a thread, and record when it began."""

        def timed() -> T:
            thread = threading.get_ident()
            self._began[thread] = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                del self._began[thread]

        return super().submit(timed)

    def running(self) -> dict[int, float]:
        """Return when each running activation began, by `time.monotonic`, keyed by thread id."""
        return dict(self._began)
