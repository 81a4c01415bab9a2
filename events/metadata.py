"""Events of the metadata domain: a user's settings."""

from typing import Self

from events.identity import UserId
from events.money import Currency, Rate
from orchestrator.event import DomainEvent, FailureEvent


class CurrencyChangeRequested(DomainEvent):
    """A user requested to see categories in another currency."""

    user_id: UserId
    currency: Currency

    @classmethod
    def example(cls) -> Self:
        """Return a change to euros by the demo's user olena."""
        return cls(user_id=UserId("olena"), currency=Currency("EUR"))


class CurrencyChangeCompleted(DomainEvent):
    """The display currency was changed, and the values of all categories were converted to it."""

    user_id: UserId
    before: Currency
    currency: Currency
    rate: Rate
    """Units of the new currency for one unit of the old one."""


class CurrencyChangeFailed(FailureEvent):
    """The display currency is unchanged."""
