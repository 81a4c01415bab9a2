"""Rows of an outbox that nobody here knows, and for how long: newer code, which is being deployed, may know them."""

from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

MOST = 10_000
"""Rows that are remembered. A row that is forgotten is waited for once more, from its next claim on."""


@dataclass(slots=True)
class UnknownRows:
    """When this relay met each of them first. Another relay may settle a row, so entries also leave with time.

    Args:
        patience: how long a row is waited for.
        forgotten_after: how long a row that is not met again is remembered.
    """

    patience: timedelta
    forgotten_after: timedelta = timedelta(minutes=10)
    _met: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]], init=False)
    """First and last meeting by the row's id, the longest not met first."""

    def __len__(self) -> int:
        return len(self._met)

    def is_waited_for(self, row: int) -> bool:
        """Meet a row.

        Returns:
            Whether newer code may still come that knows it.
        """
        now = monotonic()
        first, _ = self._met.pop(row, (now, now))
        self._met[row] = (first, now)
        self._forget(now - self.forgotten_after.total_seconds())
        return now - first < self.patience.total_seconds()

    def settle(self, row: int) -> None:
        """Forget a row that has left the outbox."""
        self._met.pop(row, None)

    def _forget(self, before: float) -> None:
        while self._met:
            oldest = next(iter(self._met))
            if len(self._met) <= MOST and self._met[oldest][1] >= before:
                return
            del self._met[oldest]
