"""Asking the tables again and again while somebody waits: soon while there is news, rarer while there is none.

A question may take long where a worker answers it: one that leaves somebody out who has come since is given up.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from orchestrator.client.outcomes.lookup import LookupSource, LookupUnavailable

_LONGEST_AWAY = 5.0
"""Seconds between two tries to reach tables that are away."""
_LONGER = 1.5
LEAST = 0.5
"""Seconds that a question is given before it is given up for another."""


class Backoff:
    """Soon again while there is news, and later and later while there is none.

    Args:
        pauses: seconds, the shortest and the longest.
    """

    def __init__(self, pauses: tuple[float, float]) -> None:
        self._soonest, self._latest = pauses
        self._pause = self._soonest

    def __call__(self, news: bool | None) -> float:
        """Seconds until the next question."""
        self._pause = self._soonest if news is not False else min(self._pause * _LONGER, self._latest)
        return self._pause


class Polling:
    """One question at a time, as long as somebody waits.

    Args:
        tables: what is asked.
        look: asks once for all who wait, and tells them; whether there was news.
        waiting: whether somebody waits.
        fail: is told of what ends the asking; None if it was stopped.
        pause: seconds until the next question, by whether the last one had news; None if there was none or it was
            given up.
    """

    def __init__(
        self,
        tables: LookupSource,
        look: Callable[[], Awaitable[bool]],
        waiting: Callable[[], bool],
        fail: Callable[[BaseException | None], None],
        pause: Callable[[bool | None], float],
    ) -> None:
        self._tables = tables
        self._look = look
        self._waiting = waiting
        self._fail = fail
        self._pause = pause
        self._task: asyncio.Task[None] | None = None
        self._came = asyncio.Event()

    def go_on(self) -> None:
        """Somebody waits who may not have been asked for yet."""
        self._came.set()
        if self._task is None:
            self._task = asyncio.create_task(self._ask())

    def stop(self) -> None:
        """Ask no more; whoever waits is told."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._fail(None)  # here, because a task that is cancelled before it begins does nothing more

    async def _ask(self) -> None:
        pause, away = self._pause(None), 0.0
        try:
            while self._waiting():
                await (asyncio.sleep(away) if away else self._sleep(pause))
                self._came.clear()
                try:
                    news = await self._look_until_somebody_comes()
                except LookupUnavailable:
                    away = min(max(away, 0.1) * 2, _LONGEST_AWAY)
                    continue
                pause, away = self._pause(news), 0.0
        except Exception as fault:
            self._fail(fault)
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._fail(None)

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until somebody who has come since is to be asked for."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            self._came.clear()
            try:
                async with asyncio.timeout(left):
                    await self._came.wait()
            except TimeoutError:
                return
            until = min(until, monotonic() + self._pause(None))

    async def _look_until_somebody_comes(self) -> bool | None:
        """Whether there was news; None if the question was given up."""
        if not self._tables.patience:
            return await self._look()
        asked = monotonic()
        looking = asyncio.ensure_future(self._look())
        coming = asyncio.ensure_future(self._came.wait())
        try:
            await asyncio.wait({looking, coming}, return_when=asyncio.FIRST_COMPLETED)
            left = LEAST - (monotonic() - asked)
            if not looking.done() and left > 0:
                await asyncio.wait({looking}, timeout=left)
            return looking.result() if looking.done() else None
        finally:
            coming.cancel()
            looking.cancel()
            await asyncio.gather(coming, looking, return_exceptions=True)
