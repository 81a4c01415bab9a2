"""How long an author's times may be: of deadlines, sleeps and waits alike."""

from datetime import timedelta

LONGEST = timedelta(days=3_660)
"""Ten years. Temporal cuts timers off at a hundred, and arithmetic on `timedelta.max` overflows."""


def fault_of_duration(value: object, form: str) -> str | None:
    """What is wrong with a time that an author declared, or None.

    Args:
        value: what was declared.
        form: how it is written, for the message.
    """
    if not isinstance(value, timedelta) or value <= timedelta(0):
        return f"{value!r}: write a time, as in `{form}`"
    if value > LONGEST:
        return f"{value!r}, and {LONGEST.days:,} days are the most: shorten it"
    return None
