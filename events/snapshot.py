"""Events of the snapshot domain: a month that is over."""

from collections.abc import Mapping
from datetime import datetime
from typing import Self
from zoneinfo import ZoneInfo

from pydantic import JsonValue

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

    @classmethod
    def scheduled(cls, at: datetime, arguments: Mapping[str, JsonValue]) -> tuple[str, Self]:
        """The month that was over then where the user lives: `user_id`, and a `time_zone` such as `Europe/Kyiv`."""
        user, here = UserId(str(arguments["user_id"])), ZoneInfo(str(arguments["time_zone"]))
        month = Month.of(at.astimezone(here)).later(-1)
        return cls.event_id_of(user, month), cls(user_id=user, month=month)

    @staticmethod
    def event_id_of(user: UserId, month: Month) -> str:
        """The same whoever asks for it, so that a month is reset once."""
        return f"month-reset-{user}-{month}"


class MonthResetCompleted(DomainEvent):
    """The month is on record."""

    user_id: UserId
    month: Month
    was_due: bool
    """False if this month, or a later one, had been reset before: then nothing was done."""


class MonthResetFailed(FailureEvent):
    """Every category has what it had, and the month may be reset still."""
