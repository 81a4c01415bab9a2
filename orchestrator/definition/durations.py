"""The limits of every duration that an author writes: deadlines, sleeps, waits, and the waits between retries."""

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from orchestrator.errors import AuthorsMistake, Refused
from orchestrator.retry import Retry

LONGEST = timedelta(days=3_660)
"""Ten years. Temporal limits timers to a hundred years, and arithmetic on `timedelta.max` overflows."""
FACTOR_LIMIT = 100
"""The largest factor of a wait."""
ATTEMPTS_LIMIT = 10_000
"""The most attempts, so that a number that was meant as "without end" is noticed."""


def fault_of_duration(value: object, form: str) -> str | None:
    """Return what is wrong with a duration that an author declared, or None.

    Args:
        value: the declared duration.
        form: the correct form, for the message.
    """
    if not isinstance(value, timedelta) or value <= timedelta(0):
        return f"{value!r}: write a time, as in `{form}`"
    if value > LONGEST:
        return f"{value!r}, which exceeds the limit of {LONGEST.days:,} days: shorten it"
    return None


def faults_of_retry(declared: Any) -> Iterator[str]:
    """Yield what is wrong with a `Retry`, each as the end of a sentence that begins with the function's name."""
    if not isinstance(declared, Retry):
        yield f"has retry={declared!r}: write `retry=Retry(first_wait=timedelta(seconds=1), attempts=5)`"
        return
    values: Any = declared  # what an author passes past the type checker
    for name in ("first_wait", "maximum_wait"):
        if (fault := fault_of_duration(getattr(values, name), f"{name}=timedelta(seconds=1)")) is not None:
            yield f"has a Retry whose {name} is {fault}"
            return
    if declared.maximum_wait < declared.first_wait:
        yield (
            f"has a Retry whose maximum_wait {declared.maximum_wait} is shorter than its first_wait "
            f"{declared.first_wait}: write `maximum_wait` too, at least as long"
        )
    factor: Any = values.factor
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool) and math.isfinite(factor)
    if not is_number or not 1 <= factor <= FACTOR_LIMIT:
        yield f"has a Retry whose factor is {factor!r}: write a number from 1 to {FACTOR_LIMIT}, as in `factor=2.0`"
    attempts: Any = values.attempts
    is_count = attempts is None or (isinstance(attempts, int) and not isinstance(attempts, bool))
    if not is_count or (attempts is not None and not 1 <= attempts <= ATTEMPTS_LIMIT):
        yield f"has a Retry whose attempts are {attempts!r}: write a number from 1 to {ATTEMPTS_LIMIT}, or leave it out"


def faults_of_never_retry(declared: Any) -> Iterator[str]:
    """Yield what is wrong with `never_retry`, in the same form."""
    if not isinstance(declared, tuple):
        yield f"has never_retry={declared!r}: write a tuple of exceptions, as in `never_retry=(CardBlocked,)`"
        return
    kind: Any
    for kind in declared:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            yield f"has {kind!r} in never_retry, which is no subclass of Exception"
        elif issubclass(kind, Refused | AuthorsMistake):
            yield f"has {kind.__name__} in never_retry, which is never retried in any case: take it out"


def faults_of_endless_retry(retry: Any, never_retry: Any, why: str) -> Iterator[str]:
    """Yield a fault if something that is retried until it succeeds has a limit."""
    if isinstance(retry, Retry) and retry.attempts is not None:
        yield f"limits its attempts to {retry.attempts}, but {why}: take `attempts` out"
    if never_retry:
        yield f"has never_retry, but {why}: take it out"
