"""Orchestrators that do what `handle` may not, and one whose bug a test can mend."""

import random
from datetime import datetime

from orchestrator import Orchestrator, Saga
from tests.cast import take
from tests.misbehaving_events import (
    ClockCompleted,
    ClockFailed,
    ClockRequested,
    DiceCompleted,
    DiceFailed,
    DiceRequested,
)


class Clock(Orchestrator[ClockRequested, ClockCompleted, ClockFailed]):
    """Reads a clock."""

    async def handle(self, event: ClockRequested, saga: Saga) -> ClockCompleted:
        """Differs at each replay."""
        await saga.execute(take("a", datetime.now().second))  # noqa: DTZ005
        return ClockCompleted()


class Dice(Orchestrator[DiceRequested, DiceCompleted, DiceFailed]):
    """Throws dice."""

    async def handle(self, event: DiceRequested, saga: Saga) -> DiceCompleted:
        """Differs at each replay."""
        await saga.execute(take("a", random.randint(1, 6)))
        return DiceCompleted()
