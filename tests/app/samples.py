"""Values that many tests use, and builders of example events with changed fields."""

from typing import Any

from events.account import AccountCreated, MoneyTransferRequested
from events.identity import AccountId, UserId
from events.money import Currency, Money

OLENA = UserId("olena")
TARAS = UserId("taras")
OLENA_USD = AccountId("olena-usd")
OLENA_EUR = AccountId("olena-eur")
OLENA_JPY = AccountId("olena-jpy")
TARAS_JPY = AccountId("taras-jpy")
TARAS_KWD = AccountId("taras-kwd")
NOWHERE = AccountId("nowhere")

EUR = Currency("EUR")
JPY = Currency("JPY")
KWD = Currency("KWD")
UAH = Currency("UAH")
USD = Currency("USD")


def usd(cents: int) -> Money:
    """An amount in US cents."""
    return Money(amount_minor=cents, currency=USD)


def eur(cents: int) -> Money:
    """An amount in euro cents."""
    return Money(amount_minor=cents, currency=EUR)


def jpy(yen: int) -> Money:
    """An amount in yen."""
    return Money(amount_minor=yen, currency=JPY)


def an_account(**changed: Any) -> AccountCreated:
    """The example of `AccountCreated` with changed fields."""
    return AccountCreated(**{**dict(AccountCreated.example()), **changed})


def a_transfer(**changed: Any) -> MoneyTransferRequested:
    """The example of `MoneyTransferRequested` with changed fields."""
    return MoneyTransferRequested(**{**dict(MoneyTransferRequested.example()), **changed})
