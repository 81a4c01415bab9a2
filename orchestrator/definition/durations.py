"""The limits of every duration that an author writes: deadlines, sleeps and waits."""

from datetime import timedelta

LONGEST = timedelta(days=3_660)
"""Ten years. Temporal limits timers to a hundred years, and arithmetic on `timedelta.max` overflows."""


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
