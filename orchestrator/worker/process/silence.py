"""How long something has said nothing, as far as whoever listens was awake to hear it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Silence:
    """Counts the seconds since the last sign of life, and leaves out those in which its listener stood still itself.

    When a laptop sleeps, or a whole container is paused, both sides stop. The first look afterwards would find a long
    silence that says nothing about the other side. So one look adds at most twice what lies between two looks.

    Args:
        interval: seconds that normally lie between two looks.
        looked_at: the clock now, in seconds that never go back.
    """

    interval: float
    looked_at: float
    seconds: float = 0.0

    def look(self, now: float, *, heard: bool) -> float:
        """Add the time since the last look, or begin anew where something was heard.

        Returns:
            Seconds of silence.
        """
        self.seconds = 0.0 if heard else self.seconds + min(now - self.looked_at, 2 * self.interval)
        self.looked_at = now
        return self.seconds
