"""Batch sizes and times of a relay."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Batch sizes and times of a relay. Tests use shorter times."""

    at_once: int = 50
    """The maximum number of ordering keys, and of rows without one, that are sent concurrently."""
    lease: timedelta = timedelta(seconds=15)
    """The duration of a claim. It must be longer than it may take to send the claimed rows."""
    soft: timedelta = timedelta(seconds=5)
    """The time after which no further row of a key is sent under the same claim."""
    patience: timedelta = timedelta(seconds=8)
    """How long it may take to send one row."""
    first_look: timedelta = timedelta(seconds=0.1)
    """The first pause while the outbox is empty. A commit in this process ends any pause."""
    last_look: timedelta = timedelta(seconds=1)
    """The longest pause while the outbox is empty."""
    first_wait: timedelta = timedelta(seconds=0.5)
    """The first wait before a row is retried. The wait doubles with each attempt."""
    last_wait: timedelta = timedelta(seconds=30)
    """The longest wait before a row is retried."""
    newer_wait: timedelta = timedelta(seconds=5)
    """The wait before retrying an event that only newer code can read or route."""
    unknown_for: timedelta = timedelta(seconds=30)
    """How long to wait for newer code if an event is unknown here."""
    late: timedelta = timedelta(seconds=60)
    """A warning is logged if the oldest row is older than this, and is repeated at this interval."""
    measured: timedelta = timedelta(seconds=5)
    """The time between two measurements of the backlog."""
    checked: timedelta = timedelta(seconds=30)
    """The time between two checks that the database belongs to this Temporal server."""
