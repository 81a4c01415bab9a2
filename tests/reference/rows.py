"""The rows of the model's tables. Their names are those of the specification; a fact that no rule needs is left out."""

from dataclasses import dataclass, field
from decimal import Decimal

INCOME, EXPENSE = "income", "expense"


@dataclass
class Account:
    """One account; amounts in its currency's minor unit."""

    id: str
    user: str
    name: str
    currency: str
    opening_balance: int
    overdraft_limit: int
    icon: str
    colour: str
    position: int
    balance: int = 0


@dataclass
class Category:
    """One category; its value in its currency's minor unit."""

    id: str
    user: str
    name: str
    budget_type: str
    currency: str
    icon: str = "scale"
    colour: str = "#868e96"
    is_system: bool = False
    value: int = 0
    reset_epoch: int = 0
    """How often it was reset: a record belongs to the epoch it was added in."""
    currency_epoch: int = 0
    """How often its user's display currency was changed."""


@dataclass
class Record:
    """One thing that happened. What no rule of its kind fills stays None."""

    event: str
    """Of the event that left it: its key."""
    user: str
    kind: str
    account: str | None = None
    category: str | None = None
    amount: int | None = None
    currency: str | None = None
    converted: int | None = None
    converted_currency: str | None = None
    budget_type: str | None = None
    note: str | None = None
    reset_epoch: int | None = None
    currency_epoch: int | None = None
    rate: Decimal | None = None
    source: str | None = None
    target: str | None = None
    amount_out: int | None = None
    currency_out: str | None = None
    amount_in: int | None = None
    currency_in: str | None = None
    currency_from: str | None = None
    currency_to: str | None = None


@dataclass
class Metadata:
    """A user's settings and counters."""

    user: str
    display_currency: str | None = None
    language: str | None = None
    last_reset_month: str | None = None
    account_count: int = 0


@dataclass
class Conversion:
    """One change of a user's display currency."""

    user: str
    epoch: int
    currency_from: str
    currency_to: str
    rate: Decimal


@dataclass
class Snapshot:
    """A month as it ended, in the display currency's minor unit."""

    user: str
    month: str
    currency: str
    income: int
    expense: int
    month_balance: int
    full_balance: int
    categories: dict[str, tuple[str, str, int]] = field(default_factory=dict[str, tuple[str, str, int]])
    """Name, budget type and value by category."""
