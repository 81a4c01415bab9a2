"""Batch sizes and times of a relay."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Batch sizes and times of a relay. Tests use shorter times."""

    at_once: int = 50
    """Most ordering keys, and rows without one, that are sent concurrently."""
    lease: timedelta = timedelta(seconds=15)
    """Duration of a claim. It must be longer than sending the claimed rows may take."""
    soft: timedelta = timedelta(seconds=5)
    """Time after which no further row of a key is sent under the same claim."""
    patience: timedelta = timedelta(seconds=8)
    """Time that sending one row may take."""
    first_look: timedelta = timedelta(seconds=0.1)
    """First pause while the outbox is empty. A commit in this process ends any pause."""
    last_look: timedelta = timedelta(seconds=1)
    """Longest pause while the outbox is empty."""
    first_wait: timedelta = timedelta(seconds=0.5)
    """First wait before a row is retried. It doubles with each attempt."""
    last_wait: timedelta = timedelta(seconds=30)
    """Longest wait before a row is retried."""
    newer_wait: timedelta = timedelta(seconds=5)
    """Wait before retrying an event that only newer code can read or route."""
    unknown_for: timedelta = timedelta(seconds=30)
    """How long to wait for newer code that knows an event which is unknown here."""
    late: timedelta = timedelta(seconds=60)
    """Age of the oldest row above which a warning is logged, and the time between two such warnings."""
    measured: timedelta = timedelta(seconds=5)
    """Time between two measurements of the backlog."""
    checked: timedelta = timedelta(seconds=30)
    """Time between two checks that the database belongs to this Temporal."""
