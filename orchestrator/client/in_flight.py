"""Limits the requests to Temporal that one event loop has in flight.

A request's deadline begins when it is sent. Three thousand requests at once keep a server busy for longer than that
deadline, so a third of them failed; with a limit the others wait here, where no deadline runs, in the order in which
they came. An uncontended semaphore costs nothing.
"""

import asyncio
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

REQUESTS = 100
"""Starts and signals in flight at once. A development server needs 5 to 10 ms for each and does not get faster with
more; a cluster that answers within 20 ms takes 5,000 a second."""
LONG_POLLS = 400
"""Executions whose end is waited for at once. A server refuses more than 1,200 in a namespace by default, and with them
the workers' polls, which it counts together."""


@dataclass(frozen=True, slots=True)
class _Limits:
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REQUESTS))
    long_polls: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LONG_POLLS))


_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, _Limits] = WeakKeyDictionary()


def request_slot() -> asyncio.Semaphore:
    """Limit starts and signals: hold it, with `async with`, around one request and nothing else that waits."""
    return _of_running_loop().requests


def long_poll_slot() -> asyncio.Semaphore:
    """Limit requests that wait for an execution's end. Hold it for a while only while others wait for it."""
    return _of_running_loop().long_polls


def _of_running_loop() -> _Limits:
    loop = asyncio.get_running_loop()
    limits = _limits.get(loop)
    if limits is None:
        limits = _limits[loop] = _Limits()
    return limits
