"""Events of the activity log: removing a record."""

from typing import Self
from uuid import UUID

from events.identity import UserId
from orchestrator.event import DomainEvent, FailureEvent


class ActivityRecordRemovalRequested(DomainEvent):
    """A user requested to remove an income or an expense together with its effects."""

    user_id: UserId
    record_id: UUID
    """The id of a record of the kind `category_value_change`."""

    @classmethod
    def example(cls) -> Self:
        """Return the removal of a coffee that `starter.seed.drink_coffee` records for the demo's user olena."""
        return cls(user_id=UserId("olena"), record_id=UUID("5eed0000-0000-5000-8000-000000000001"))


class ActivityRecordRemovalCompleted(DomainEvent):
    """The record was deleted, and its amount reversed in the account and the category."""

    user_id: UserId
    record_id: UUID
    was_reset_since: bool
    """True if the category was reset after the record, so that it no longer contained the amount."""


class ActivityRecordRemovalFailed(FailureEvent):
    """The record and its effects are unchanged."""
