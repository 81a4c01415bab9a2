"""Whether anything gets done: the plan's clock goes on only then, and what has stood still for long is wedged.

On a slow or busy machine a run takes longer for it, and every fault still meets sagas under way.
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

_LOOK = 0.25
_PATIENCE = 4.0
"""Seconds without progress after which the clock waits: longer than most restarts."""
_LONGER = 3
"""The clock takes at most so many times as long as planned."""


class Progress:
    """Looks at the database, and keeps the plan's time.

    Args:
        database: the bank's.
        accepted: how many events are accepted by now.
        seconds: of the plan.
    """

    def __init__(self, database: Database, accepted: Callable[[], int], seconds: float) -> None:
        self.ended = 0
        self.open = 0
        self.time = 0.0
        """Of the plan."""
        self._database = database
        self._accepted = accepted
        self._steps = 0
        self._changed_at = monotonic()
        self._pauses_left = seconds * (_LONGER - 1)

    @property
    def still_for(self) -> float:
        """Seconds since the last step was done, or the last saga ended."""
        return monotonic() - self._changed_at

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            before = monotonic()
            with contextlib.suppress(*AWAY):
                await self._look()
            await asyncio.sleep(_LOOK)
            passed = monotonic() - before
            if self.still_for < _PATIENCE or self._pauses_left <= 0 or self._accepted() <= self.ended:
                self.time += passed
            else:
                self._pauses_left -= passed

    async def until(self, time: float) -> None:
        """Wait until the plan's clock has come so far."""
        while self.time < time:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)

    async def _look(self) -> None:
        ended = func.count().filter(saga.c.phase.not_in((Phase.FORWARD.value, Phase.UNDOING.value)))
        async with asyncio.timeout(_PATIENCE), self._database.reading() as connection:
            done, count = (await connection.execute(select(ended, func.count()).select_from(saga))).one()
            steps = await connection.scalar(select(func.count()).select_from(saga_step)) or 0
        if (done, count - done, steps) != (self.ended, self.open, self._steps):
            self._changed_at = monotonic()
        self.ended, self.open, self._steps = done, count - done, steps
