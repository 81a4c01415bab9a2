"""Events of the account domain: opening an account, transferring money, and correcting a balance."""

from typing import Annotated, Self
from uuid import uuid4

from pydantic import Field, ValidationInfo, field_validator

from events.identity import AccountId, UserId
from events.money import Currency, MinorUnits, Money, PositiveMoney, Rate
from events.text import Note
from orchestrator.event import DomainEvent, FailureEvent

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]
"""A name that a person has chosen."""
Icon = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
"""The name of an icon, e.g. `piggy-bank`."""
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
"""A colour in CSS notation, e.g. `#2f9e44`."""


class AccountCreated(DomainEvent):
    """A user requested a new account. It can be used after ACCOUNT_CREATION_COMPLETED."""

    user_id: UserId
    account_id: AccountId
    """Chosen by the client. An id that is already used is refused."""
    name: Name
    currency: Currency
    overdraft_limit: Annotated[MinorUnits, Field(ge=0)] = 0
    """How far below zero the balance may go, in the currency's minor unit."""
    opening_balance: MinorUnits
    """The first balance in the currency's minor unit. It may be negative within the overdraft limit."""
    icon: Icon
    colour: Colour

    @field_validator("opening_balance")
    @classmethod
    def _opens_within_its_limit(cls, opening_balance: int, info: ValidationInfo) -> int:
        # Checked here and not in the operation, because the event is enough to know, and the publisher learns at once.
        limit = info.data.get("overdraft_limit")
        if limit is not None and opening_balance < -limit:
            raise ValueError("must not be below minus the overdraft limit")
        return opening_balance

    @classmethod
    def example(cls) -> Self:
        """Return a new account of the demo's user olena, with a new id each time."""
        return cls(
            user_id=UserId("olena"),
            account_id=AccountId(f"olena-{uuid4().hex[:12]}"),
            name="Holiday",
            currency=Currency("USD"),
            opening_balance=25_000,
            icon="palm-tree",
            colour="#f08c00",
        )


class AccountCreationCompleted(DomainEvent):
    """The account is open."""

    user_id: UserId
    account_id: AccountId


class AccountCreationFailed(FailureEvent):
    """The account was not created, and nothing of it is left."""


class MoneyTransferRequested(DomainEvent):
    """A user requested to move money between two of their accounts."""

    user_id: UserId
    from_account_id: AccountId
    to_account_id: AccountId
    amount: PositiveMoney
    """The amount to withdraw, in the source's currency."""
    arriving: PositiveMoney | None = None
    """The amount to deposit, in the target's currency. Without it, the amount is converted at the stored rate."""

    @field_validator("arriving")
    @classmethod
    def _same_currency_means_same_amount(cls, arriving: Money | None, info: ValidationInfo) -> Money | None:
        amount: Money | None = info.data.get("amount")
        if arriving and amount and arriving.currency == amount.currency and arriving != amount:
            raise ValueError("must equal the withdrawn amount if both have the same currency")
        return arriving

    @classmethod
    def example(cls) -> Self:
        """Return a transfer of $10.50 between two accounts of the demo's user olena, at the stored rate."""
        return cls(
            user_id=UserId("olena"),
            from_account_id=AccountId("olena-usd"),
            to_account_id=AccountId("olena-eur"),
            amount=Money(amount_minor=1_050, currency=Currency("USD")),
        )


class MoneyTransferCompleted(DomainEvent):
    """The money was transferred."""

    user_id: UserId
    from_account_id: AccountId
    to_account_id: AccountId
    left: Money
    """The amount withdrawn from the source."""
    arrived: Money
    """The amount deposited into the target."""
    rate: Rate | None = None
    """The rate that was used; None if the request named both amounts, or both accounts have the same currency."""


class MoneyTransferFailed(FailureEvent):
    """No money was transferred."""


class AccountValueEditRequested(DomainEvent):
    """A user corrected the balance of an account."""

    user_id: UserId
    account_id: AccountId
    value: Money
    """The new balance, in the account's currency."""
    note: Note = ""

    @classmethod
    def example(cls) -> Self:
        """Return a correction of the wallet of the demo's user olena."""
        return cls(
            user_id=UserId("olena"),
            account_id=AccountId("olena-usd"),
            value=Money(amount_minor=999_950_00, currency=Currency("USD")),
            note="counted",
        )


class AccountValueEditCompleted(DomainEvent):
    """The account has the new balance."""

    user_id: UserId
    account_id: AccountId
    difference: Money
    """The difference to the old balance; negative if the balance was reduced."""


class AccountValueEditFailed(FailureEvent):
    """The balance is unchanged."""
