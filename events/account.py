"""Events of the account domain: accounts that are opened, and money that moves between them."""

from typing import Annotated, Self
from uuid import uuid4

from pydantic import Field, ValidationInfo, field_validator

from events.identity import AccountId, UserId
from events.money import Currency, MinorUnits, Money, PositiveMoney, Rate
from events.text import Note
from orchestrator.event import DomainEvent, FailureEvent

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]
"""What a person calls something."""
Icon = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
"""The name of an icon, e.g. `piggy-bank`."""
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
"""As in CSS, e.g. `#2f9e44`."""


class AccountCreated(DomainEvent):
    """A user asked for a new account; others may use it once ACCOUNT_CREATION_COMPLETED is out."""

    user_id: UserId
    account_id: AccountId
    """Chosen by the user's side; one that is taken is refused."""
    name: Name
    currency: Currency
    overdraft_limit: Annotated[MinorUnits, Field(ge=0)] = 0
    """How far under zero the balance may go, in the currency's minor unit."""
    opening_balance: MinorUnits
    """In the currency's minor unit; under zero only down to the overdraft limit."""
    icon: Icon
    colour: Colour

    @field_validator("opening_balance")
    @classmethod
    def _opens_within_its_limit(cls, opening_balance: int, info: ValidationInfo) -> int:
        # Here and not in the operation: it takes no more than the event to know, so whoever publishes learns at once.
        limit = info.data.get("overdraft_limit")
        if limit is not None and opening_balance < -limit:
            raise ValueError("must not be under minus the overdraft limit")
        return opening_balance

    @classmethod
    def example(cls) -> Self:
        """A new account of the demo's user olena; a fresh id each time, as an id can be taken once."""
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
    """There is no such account, and no trace of one."""


class MoneyTransferRequested(DomainEvent):
    """A user asked to move money from one of their accounts to another."""

    user_id: UserId
    from_account_id: AccountId
    to_account_id: AccountId
    amount: PositiveMoney
    """What leaves, in the source's currency."""
    arriving: PositiveMoney | None = None
    """What arrives, in the target's currency. Without it the stored rate decides."""

    @field_validator("arriving")
    @classmethod
    def _one_currency_keeps_its_sum(cls, arriving: Money | None, info: ValidationInfo) -> Money | None:
        amount: Money | None = info.data.get("amount")
        if arriving and amount and arriving.currency == amount.currency and arriving != amount:
            raise ValueError("must equal the amount that leaves when both are in one currency")
        return arriving

    @classmethod
    def example(cls) -> Self:
        """Ten dollars and a half between two accounts of the demo's user olena, at the stored rate."""
        return cls(
            user_id=UserId("olena"),
            from_account_id=AccountId("olena-usd"),
            to_account_id=AccountId("olena-eur"),
            amount=Money(amount_minor=1_050, currency=Currency("USD")),
        )


class MoneyTransferCompleted(DomainEvent):
    """The money has moved."""

    user_id: UserId
    from_account_id: AccountId
    to_account_id: AccountId
    left: Money
    """What the source lost."""
    arrived: Money
    """What the target gained."""
    rate: Rate | None = None
    """The rate that was used; None if the event named what arrives, or both are in one currency."""


class MoneyTransferFailed(FailureEvent):
    """No money has moved."""


class AccountValueEditRequested(DomainEvent):
    """A user said how much an account really holds."""

    user_id: UserId
    account_id: AccountId
    value: Money
    """The balance from now on, in the account's currency."""
    note: Note = ""

    @classmethod
    def example(cls) -> Self:
        """Cash counted in the wallet of the demo's user olena."""
        return cls(
            user_id=UserId("olena"),
            account_id=AccountId("olena-usd"),
            value=Money(amount_minor=999_950_00, currency=Currency("USD")),
            note="counted",
        )


class AccountValueEditCompleted(DomainEvent):
    """The account holds what the user said."""

    user_id: UserId
    account_id: AccountId
    difference: Money
    """What was added; less than zero if it was taken off."""


class AccountValueEditFailed(FailureEvent):
    """The account holds what it held."""
