"""Limits how many requests to Temporal one event loop has in flight.

A request's deadline starts when it is sent. Three thousand concurrent requests kept a server busy for longer than that
deadline, so a third of them failed. With a limit, the others wait here first, in order and without a deadline. An
uncontended semaphore costs almost nothing.
"""

import asyncio
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

REQUESTS = 100
"""Limit of starts and signals in flight. A development server needs 5 to 10 ms for each and does not get faster with
more of them; a cluster that answers within 20 ms handles 5,000 a second."""
LONG_POLLS = 400
"""Limit of requests that wait for an execution's end. By default a server allows 1,200 per namespace, and counts the
workers' polls among them."""


@dataclass(frozen=True, slots=True)
class _Limits:
    requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REQUESTS))
    long_polls: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LONG_POLLS))


_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, _Limits] = WeakKeyDictionary()


def request_slot() -> asyncio.Semaphore:
    """Return the limit for starts and signals. Hold it with `async with` around one request only."""
    return _of_running_loop().requests


def long_poll_slot() -> asyncio.Semaphore:
    """Return the limit for requests that wait for an execution's end. Release it regularly if others queue for it."""
    return _of_running_loop().long_polls


def _of_running_loop() -> _Limits:
    loop = asyncio.get_running_loop()
    limits = _limits.get(loop)
    if limits is None:
        limits = _limits[loop] = _Limits()
    return limits
