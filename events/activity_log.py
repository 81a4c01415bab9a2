"""Events of the activity log: a record that is taken back."""

from typing import Self
from uuid import UUID

from events.identity import UserId
from orchestrator.event import DomainEvent, FailureEvent


class ActivityRecordRemovalRequested(DomainEvent):
    """A user wants an income or an expense taken back, with all it did."""

    user_id: UserId
    record_id: UUID
    """Of the kind `category_value_change`."""

    @classmethod
    def example(cls) -> Self:
        """A coffee of the demo's user olena: `starter.seed.drink_coffee` writes it."""
        return cls(user_id=UserId("olena"), record_id=UUID("5eed0000-0000-5000-8000-000000000001"))


class ActivityRecordRemovalCompleted(DomainEvent):
    """The record is gone, and its amount is out of its account and of its category."""

    user_id: UserId
    record_id: UUID
    was_reset_since: bool
    """The category was set to zero since, so nothing of the record was left in it."""


class ActivityRecordRemovalFailed(FailureEvent):
    """The record stands, with all it did."""
