"""Retries: how long the engine waits between attempts, and how many it makes.

Every such wait is decided here: what an author declares for an operation or a compensation, and what the engine uses
where nothing is declared. Who gives up when is decided by `orchestrator.worker.step_retries`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

ErrorTypes = tuple[type[Exception], ...]
"""The classes of errors that an operation never retries."""
_EXPONENT_LIMIT = 100
"""The largest exponent of the factor, which no wait needs and a float cannot exceed by much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a failing step is retried: the waits between its attempts and, if it is limited, their number.

        @operation(retry=Retry(first_wait=timedelta(seconds=2), attempts=5))

    The defaults are what an operation has that declares nothing.
    """

    first_wait: timedelta = timedelta(milliseconds=100)
    """The wait after the first failed attempt."""
    factor: float = 2.0
    """What each further wait is multiplied by."""
    maximum_wait: timedelta = timedelta(seconds=30)
    """The longest wait."""
    attempts: int | None = None
    """The number of attempts after which the step fails for good; by default only its deadline ends it."""

    def wait_after(self, attempt: int) -> timedelta:
        """Return the wait after a failed attempt; attempts are counted from 1."""
        longest = self.maximum_wait.total_seconds()
        growth = self.factor ** min(attempt - 1, _EXPONENT_LIMIT)
        return timedelta(seconds=min(self.first_wait.total_seconds() * growth, longest))


DEFAULT_RETRY = Retry()
"""How a step is retried whose operation declares nothing, and a compensation."""
LOCAL_ATTEMPTS = 3
"""The attempts in the saga's own worker, before the server takes over."""
LOCAL_RETRY = Retry(first_wait=timedelta(milliseconds=50), attempts=LOCAL_ATTEMPTS)
"""How a local activity is retried, whose attempts take at most a second in all."""
ENDLESS_RETRY = Retry(maximum_wait=timedelta(minutes=1))
"""How that is retried which must succeed: a compensation, a step past the pivot, a decision."""
RESTART_WAIT = timedelta(minutes=1)
"""The wait before an activity is scheduled again that was to be retried without end and has ended nevertheless."""
WAVE_RETRY = Retry(first_wait=timedelta(milliseconds=30), factor=1.0, attempts=2)
"""How anything is retried within a wave, before its saga is postponed."""


def strictest(retries: Sequence[Retry]) -> Retry:
    """Return what holds for several operations in one step: the fewest attempts and the longest waits of any."""
    if not retries:
        return DEFAULT_RETRY
    attempts = [retry.attempts for retry in retries if retry.attempts is not None]
    return Retry(
        first_wait=max(retry.first_wait for retry in retries),
        factor=max(retry.factor for retry in retries),
        maximum_wait=max(retry.maximum_wait for retry in retries),
        attempts=min(attempts, default=None),
    )
