"""Progress of a run. The plan's clock stops while nothing happens, and what makes no progress for long is wedged.

A run takes longer on a slow or busy machine because of that, but every fault still hits sagas in progress.
"""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic

from sqlalchemy import func, select

from orchestrator.protocol.commands import Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from tests.chaos.interventions import AWAY

_POLL_INTERVAL = 0.25
_PATIENCE = 4.0
"""Seconds without progress after which the clock stops; longer than most restarts take."""
_MAX_STRETCH = 3
"""The run takes at most this many times as long as planned."""


class Progress:
    """Polls the database and keeps the plan's time.

    Args:
        database: the bank's home database.
        accepted: returns how many events have been accepted.
        seconds: the length of the plan.
    """

    def __init__(self, database: Database, accepted: Callable[[], int], seconds: float) -> None:
        self.ended = 0
        self.open = 0
        self.time = 0.0
        """The time on the plan's clock."""
        self._database = database
        self._accepted = accepted
        self._steps = 0
        self._changed_at = monotonic()
        self._pauses_left = seconds * (_MAX_STRETCH - 1)

    @property
    def still_for(self) -> float:
        """Seconds since the last step or the last saga ended."""
        return monotonic() - self._changed_at

    async def watch(self) -> None:
        """Poll until cancelled."""
        while True:
            before = monotonic()
            with contextlib.suppress(*AWAY):
                await self._look()
            await asyncio.sleep(_POLL_INTERVAL)
            passed = monotonic() - before
            if self.still_for < _PATIENCE or self._pauses_left <= 0 or self._accepted() <= self.ended:
                self.time += passed
            else:
                self._pauses_left -= passed

    async def until(self, time: float) -> None:
        """Wait until the plan's clock has reached a time."""
        while self.time < time:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_INTERVAL)

    async def _look(self) -> None:
        ended = func.count().filter(saga.c.phase.not_in((Phase.FORWARD.value, Phase.UNDOING.value)))
        async with asyncio.timeout(_PATIENCE), self._database.reading() as connection:
            done, count = (await connection.execute(select(ended, func.count()).select_from(saga))).one()
            steps = await connection.scalar(select(func.count()).select_from(saga_step)) or 0
        if (done, count - done, steps) != (self.ended, self.open, self._steps):
            self._changed_at = monotonic()
        self.ended, self.open, self._steps = done, count - done, steps
