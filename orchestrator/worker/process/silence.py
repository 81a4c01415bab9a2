"""Measures how long no sign of life has arrived, without the time in which the listener itself was paused."""

from dataclasses import dataclass


@dataclass(slots=True)
class Silence:
    """Counts the seconds since the last sign of life, without those in which the listener itself was paused.

    When a laptop sleeps, or a whole container is paused, both sides stop. The first check afterwards would find a long
    silence that is not the other side's fault. So each check adds at most twice the usual interval.

    Args:
        interval: the usual number of seconds between two checks.
        looked_at: the current time of a monotonic clock, in seconds.
    """

    interval: float
    looked_at: float
    seconds: float = 0.0

    def look(self, now: float, *, heard: bool) -> float:
        """Add the time since the last check, or start again from zero if a sign of life has arrived.

        Returns:
            The number of seconds of silence.
        """
        self.seconds = 0.0 if heard else self.seconds + min(now - self.looked_at, 2 * self.interval)
        self.looked_at = now
        return self.seconds
