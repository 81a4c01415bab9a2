"""Repeats a lookup for as long as callers wait: soon while there is news, and less often while there is none.

A lookup that a worker answers may take long, so it is cancelled and repeated when a new caller needs to be included.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from orchestrator.client.outcomes.lookup import LookupSource, LookupUnavailable

_LONGEST_RETRY_PAUSE = 5.0
"""Longest pause between two attempts to reach an unavailable source, in seconds."""
_BACKOFF_FACTOR = 1.5
MINIMUM_LOOKUP_TIME = 0.5
"""The minimum number of seconds that a lookup runs before it may be cancelled for a new caller."""


class Backoff:
    """Pauses that are short while there is news, and grow while there is none.

    Args:
        pauses: the shortest and the longest pause, in seconds.
    """

    def __init__(self, pauses: tuple[float, float]) -> None:
        self._soonest, self._latest = pauses
        self._pause = self._soonest

    def __call__(self, news: bool | None) -> float:
        """Return the seconds until the next lookup."""
        self._pause = self._soonest if news is not False else min(self._pause * _BACKOFF_FACTOR, self._latest)
        return self._pause


class Polling:
    """Runs one lookup at a time for as long as callers wait.

    Args:
        source: answers the lookups.
        look: runs one lookup for all callers, passes them their results, and returns whether there was news.
        is_waited_for: returns whether a caller waits.
        fail: called with the error that ends the polling, or with None when it is stopped.
        pause: returns the seconds until the next lookup. It gets whether the last lookup had news, or None if there was
            no lookup yet or it was cancelled for a new caller.
    """

    def __init__(
        self,
        source: LookupSource,
        look: Callable[[], Awaitable[bool]],
        is_waited_for: Callable[[], bool],
        fail: Callable[[BaseException | None], None],
        pause: Callable[[bool | None], float],
    ) -> None:
        self._source = source
        self._look = look
        self._is_waited_for = is_waited_for
        self._fail = fail
        self._pause = pause
        self._task: asyncio.Task[None] | None = None
        self._new_caller = asyncio.Event()

    def include_new_caller(self) -> None:
        """Start polling, or let the next lookup include a caller that the current one may leave out."""
        self._new_caller.set()
        if self._task is None:
            self._task = asyncio.create_task(self._poll())

    def stop(self) -> None:
        """Stop polling, and cancel the callers that wait."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._fail(None)  # here, because a task that is cancelled before it starts never runs its `finally`

    async def _poll(self) -> None:
        pause, retry_pause = self._pause(None), 0.0
        try:
            while self._is_waited_for():
                await (asyncio.sleep(retry_pause) if retry_pause else self._sleep(pause))
                self._new_caller.clear()
                try:
                    has_news = await self._look_until_new_caller()
                except LookupUnavailable:
                    retry_pause = min(max(retry_pause, 0.1) * 2, _LONGEST_RETRY_PAUSE)
                    continue
                pause, retry_pause = self._pause(has_news), 0.0
        except Exception as fault:
            self._fail(fault)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._fail(None)

    async def _sleep(self, seconds: float) -> None:
        """Sleep for a pause, which ends earlier if a new caller requires an earlier lookup."""
        until = monotonic() + seconds
        while (remaining := until - monotonic()) > 0:
            self._new_caller.clear()
            try:
                async with asyncio.timeout(remaining):
                    await self._new_caller.wait()
            except TimeoutError:
                return
            until = min(until, monotonic() + self._pause(None))

    async def _look_until_new_caller(self) -> bool | None:
        """Run a lookup and return whether there was news, or None if it was cancelled for a new caller."""
        if not self._source.patience:
            return await self._look()
        started = monotonic()
        looking = asyncio.ensure_future(self._look())
        new_caller = asyncio.ensure_future(self._new_caller.wait())
        try:
            await asyncio.wait({looking, new_caller}, return_when=asyncio.FIRST_COMPLETED)
            remaining = MINIMUM_LOOKUP_TIME - (monotonic() - started)
            if not looking.done() and remaining > 0:
                await asyncio.wait({looking}, timeout=remaining)
            return looking.result() if looking.done() else None
        finally:
            new_caller.cancel()
            looking.cancel()
            await asyncio.gather(new_caller, looking, return_exceptions=True)
