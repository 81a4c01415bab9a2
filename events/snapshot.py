"""Events of the snapshot domain: a month that is over."""

from typing import Self

from events.identity import UserId
from events.month import Month
from orchestrator.event import DomainEvent, FailureEvent


class MonthResetRequested(DomainEvent):
    """A month is over: its categories are put on record and start again from zero.

    From a schedule, or by hand; asking again for a month that was reset changes nothing.
    """

    user_id: UserId
    month: Month
    """The month that is over."""

    @classmethod
    def example(cls) -> Self:
        """January 2026 of the demo's user olena."""
        return cls(user_id=UserId("olena"), month=Month("2026-01"))


class MonthResetCompleted(DomainEvent):
    """The month is on record."""

    user_id: UserId
    month: Month
    was_due: bool
    """False if this month, or a later one, had been reset before: then nothing was done."""


class MonthResetFailed(FailureEvent):
    """Every category has what it had, and the month may be reset still."""
