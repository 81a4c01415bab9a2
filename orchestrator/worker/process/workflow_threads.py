"""The threads in which workflow code runs, and for how long each has been at it.

Temporal's SDK gives an activation two seconds, then fails the task and raises an exception in its thread. Code that
swallows that exception, or never comes back from C, keeps its thread, and most of the interpreter's time, for good.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 500
"""As many as the SDK takes by default; a thread is made when one is needed."""


class WorkflowThreads(ThreadPoolExecutor):
    """An executor that can tell its longest running activation."""

    def __init__(self) -> None:
        super().__init__(max_workers=_THREADS, thread_name_prefix="workflow")
        self._began: dict[int, float] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run in a thread."""

        def timed() -> T:
            thread = threading.get_ident()
            self._began[thread] = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                del self._began[thread]

        return super().submit(timed)

    def running(self) -> dict[int, float]:
        """For each thread that is at an activation, when that began, by `time.monotonic`."""
        return dict(self._began)
