"""The rows of the model's tables, named as in the specification. A fact that no rule needs is left out."""

from dataclasses import dataclass, field
from decimal import Decimal

INCOME, EXPENSE = "income", "expense"


@dataclass
class Account:
    """An account; amounts are in minor units of its currency."""

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
    """A category; its value is in minor units of its currency."""

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
    """How often it was reset; a record belongs to the epoch in which it was added."""
    currency_epoch: int = 0
    """How often the user's display currency was changed."""


@dataclass
class Record:
    """Something that happened. A field that its kind does not use is None."""

    event: str
    """The id of the event that created it, which is its key."""
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
    """A month when it ended, in minor units of the display currency."""

    user: str
    month: str
    currency: str
    income: int
    expense: int
    month_balance: int
    full_balance: int
    categories: dict[str, tuple[str, str, int]] = field(default_factory=dict[str, tuple[str, str, int]])
    """Name, budget type and value by category."""
