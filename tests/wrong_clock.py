"""Sets this process's clock wrong for Python code that reads `datetime.now`, `datetime.utcnow` or `time.time`.

It needs CPython. The monotonic clock stays right, as it does on a machine whose clock is wrong. So do the clocks of
PostgreSQL and Temporal, which are other processes, and SQLite's, which reads the machine's clock from C.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, cast

_true_time = time.time
_true_time_ns = time.time_ns
# A built-in type refuses `setattr`. Its real dictionary can be changed if the type is notified afterwards.
_attributes = cast(dict[str, Any], gc.get_referents(datetime.__dict__)[0])
_true_now = _attributes["now"]
_true_utcnow = _attributes["utcnow"]


def true_now() -> datetime:
    """The machine's time, whatever this process's clock says."""
    return datetime.fromtimestamp(_true_time(), UTC)


def set_wrong(ahead: Callable[[], timedelta]) -> None:
    """Set the process's clock wrong from now on.

    Args:
        ahead: returns how far the clock is ahead; negative if it is behind.
    """

    def wrong_time() -> float:
        return _true_time() + ahead().total_seconds()

    def wrong_now(cls: type[datetime], tz: tzinfo | None = None) -> datetime:
        return cls.fromtimestamp(wrong_time(), tz)

    def wrong_utcnow(cls: type[datetime]) -> datetime:
        return cls.fromtimestamp(wrong_time(), UTC).replace(tzinfo=None)

    _install(classmethod(wrong_now), classmethod(wrong_utcnow))
    time.time = wrong_time
    time.time_ns = lambda: _true_time_ns() + int(ahead().total_seconds() * 1e9)


def set_right() -> None:
    """Set the process's clock right again."""
    _install(_true_now, _true_utcnow)
    time.time, time.time_ns = _true_time, _true_time_ns


@contextmanager
def wrong_clock(ahead: timedelta) -> Generator[None]:
    """Run the block with the process's clock ahead by this much."""
    set_wrong(lambda: ahead)
    try:
        yield
    finally:
        set_right()


def _install(now: Any, utcnow: Any) -> None:
    _attributes["now"], _attributes["utcnow"] = now, utcnow
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime))
