"""What a user may request: the payloads of the specification as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """A request by one user."""

    user: str


@dataclass(frozen=True, slots=True)
class CreateAccount(Event):
    """ACCOUNT_CREATED."""

    account: str
    currency: str
    opening_balance: int
    overdraft_limit: int = 0
    name: str = "Account"
    icon: str = "wallet"
    colour: str = "#2f9e44"


@dataclass(frozen=True, slots=True)
class TransactCategory(Event):
    """CATEGORY_TRANSACTION_REQUESTED: an income or an expense, depending on the category."""

    category: str
    account: str
    amount: int
    currency: str
    """The currency of the amount, which should be the account's."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class TransferMoney(Event):
    """MONEY_TRANSFER_REQUESTED."""

    source: str
    target: str
    amount: int
    currency: str
    arriving: int | None = None
    arriving_currency: str | None = None


@dataclass(frozen=True, slots=True)
class EditAccountValue(Event):
    """ACCOUNT_VALUE_EDIT_REQUESTED."""

    account: str
    value: int
    currency: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class RemoveRecord(Event):
    """ACTIVITY_RECORD_REMOVAL_REQUESTED."""

    record: str
    """The id of the event that created the record; no event creates two."""


@dataclass(frozen=True, slots=True)
class ResetCategories(Event):
    """CATEGORY_RESET_REQUESTED."""

    budget_type: str


@dataclass(frozen=True, slots=True)
class ChangeCurrency(Event):
    """CURRENCY_CHANGE_REQUESTED."""

    currency: str


@dataclass(frozen=True, slots=True)
class ResetMonth(Event):
    """MONTH_RESET_REQUESTED."""

    month: str
    """A month such as `2026-01`."""
