"""Events of the metadata domain: a user's settings."""

from typing import Self

from events.identity import UserId
from events.money import Currency, Rate
from orchestrator.event import DomainEvent, FailureEvent


class CurrencyChangeRequested(DomainEvent):
    """A user wants to see their categories in another currency."""

    user_id: UserId
    currency: Currency

    @classmethod
    def example(cls) -> Self:
        """The demo's user olena goes over to euros."""
        return cls(user_id=UserId("olena"), currency=Currency("EUR"))


class CurrencyChangeCompleted(DomainEvent):
    """The display currency is another, and every category's value is kept in it."""

    user_id: UserId
    before: Currency
    currency: Currency
    rate: Rate
    """Units of the new currency for one of the old."""


class CurrencyChangeFailed(FailureEvent):
    """The display currency is what it was."""
