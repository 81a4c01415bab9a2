"""Remembers outbox rows that this process cannot route, because newer code that is being deployed may know them."""

from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

MOST = 10_000
"""The maximum number of rows to remember. If a forgotten row is claimed again, its waiting time starts afresh."""


@dataclass(slots=True)
class UnknownRows:
    """Records when this relay first claimed each unknown row, to limit how long it waits for newer code.

    Another relay may send a row meanwhile, so entries also expire.

    Args:
        patience: how long to wait for newer code that knows a row.
        forgotten_after: how long to remember a row that is not claimed again.
    """

    patience: timedelta
    forgotten_after: timedelta = timedelta(minutes=10)
    _claimed: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]], init=False)
    """The times of the first and last claim by row id, ordered by the last claim, oldest first."""

    def __len__(self) -> int:
        return len(self._claimed)

    def is_waited_for(self, row: int) -> bool:
        """Record that a row was claimed, and return whether newer code that knows it may still be deployed."""
        now = monotonic()
        first, _ = self._claimed.pop(row, (now, now))
        self._claimed[row] = (first, now)
        self._forget(now - self.forgotten_after.total_seconds())
        return now - first < self.patience.total_seconds()

    def settle(self, row: int) -> None:
        """Forget a row that has left the outbox."""
        self._claimed.pop(row, None)

    def _forget(self, before: float) -> None:
        while self._claimed:
            oldest = next(iter(self._claimed))
            if len(self._claimed) <= MOST and self._claimed[oldest][1] >= before:
                return
            del self._claimed[oldest]
