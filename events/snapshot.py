"""Events of the snapshot domain: resetting a month that has ended."""

from collections.abc import Mapping
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo

from pydantic import JsonValue

from events.identity import UserId
from events.month import Month
from orchestrator.event import DomainEvent, FailureEvent


class MonthResetRequested(DomainEvent):
    """A month has ended: its categories are to be saved and set to zero.

    A schedule or a person requests it. A second request for the same month changes nothing.
    """

    user_id: UserId
    month: Month
    """The month that has ended."""

    @classmethod
    def example(cls) -> Self:
        """Return the reset of January 2026 of the demo's user olena."""
        return cls(user_id=UserId("olena"), month=Month("2026-01"))

    @classmethod
    def scheduled(cls, at: datetime, arguments: Mapping[str, JsonValue]) -> tuple[str, Self]:
        """Return the reset of the month that had just ended in the user's time zone.

        Args:
            at: the time that the schedule names.
            arguments: `user_id`, and `time_zone` such as `Europe/Kyiv`.
        """
        user, here = UserId(str(arguments["user_id"])), ZoneInfo(str(arguments["time_zone"]))
        month = Month.of(at.astimezone(here)).later(-1)
        return cls.event_id_of(user, month), cls(user_id=user, month=month)

    @staticmethod
    def event_id_of(user: UserId, month: Month) -> str:
        """Return the event id, which depends only on user and month, so that a month is reset once."""
        return f"month-reset-{user}-{month}"


class MonthResetCompleted(DomainEvent):
    """The month was saved."""

    user_id: UserId
    month: Month
    was_due: bool
    """False if this month or a later one had already been reset, so that nothing was done."""


class MonthResetFailed(FailureEvent):
    """The categories are unchanged, and the month can still be reset."""
