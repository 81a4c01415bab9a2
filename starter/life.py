"""A simulated life as events: what a user earns, spends, transfers, corrects, removes and resets.

Everything depends on the seed alone: the same seed gives the same events, with the same ids and times. A user's events
are in order, and an event may depend on the previous one, so publish it after that one has its outcome.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from events.account import AccountCreated, AccountValueEditRequested, MoneyTransferRequested
from events.category import BudgetType, CategoryResetRequested, CategoryTransactionRequested
from events.identity import AccountId, CategoryId, UserId
from events.metadata import CurrencyChangeRequested
from events.money import Currency, Money
from events.month import Month
from events.snapshot import MonthResetRequested
from orchestrator.event import DomainEvent

FIRST_MONTH = Month("2026-01")
HOMES = (Currency("UAH"), Currency("USD"), Currency("EUR"))
ABROAD = (Currency("JPY"), Currency("KWD"), Currency("USD"))
CATEGORIES = {
    "salary": BudgetType.INCOME,
    "gifts": BudgetType.INCOME,
    "rent": BudgetType.EXPENSE,
    "groceries": BudgetType.EXPENSE,
    "cafes": BudgetType.EXPENSE,
    "travel": BudgetType.EXPENSE,
}
"""The categories of each user, whose ids begin with the user's id."""

_WORTH = {"UAH": Decimal(40), "USD": Decimal(1), "EUR": Decimal(1), "JPY": Decimal(150), "KWD": Decimal("0.3")}
"""Roughly how many units have the same worth, so that amounts are realistic in each currency."""


@dataclass(frozen=True, slots=True)
class Request:
    """An event that a user requests."""

    event_id: str
    time: datetime
    event: DomainEvent


@dataclass(frozen=True, slots=True)
class RemovalRequest:
    """The removal of an earlier event's record. The record's id is known after that event has its outcome."""

    event_id: str
    time: datetime
    recorded_by: str
    """The id of the earlier event."""


@dataclass(frozen=True, slots=True)
class Life:
    """The life of one user.

    Args:
        seed: the seed of the whole simulation.
        number: the number of the user, from 1.
        months: the number of months.
    """

    seed: int
    number: int
    months: int

    @property
    def user(self) -> UserId:
        """The user's id."""
        return UserId(f"user-{self.number:03}")

    @property
    def home(self) -> Currency:
        """The currency of the main account, and the first display currency."""
        return HOMES[self.number % len(HOMES)]

    @property
    def abroad(self) -> Currency:
        """The currency of the account for travelling."""
        return next(code for code in (ABROAD[self.number % 3], ABROAD[(self.number + 1) % 3]) if code != self.home)

    def category(self, name: str) -> CategoryId:
        """Return the id of one of the user's categories."""
        return CategoryId(f"{self.user}-{name}")

    def account(self, name: str) -> AccountId:
        """Return the id of one of the user's accounts."""
        return AccountId(f"{self.user}-{name}")

    def events(self) -> Iterator[Request | RemovalRequest]:
        """Yield all requests in order."""
        return _Year(self).events()


class _Year:
    """Generates one life, month by month."""

    def __init__(self, life: Life) -> None:
        self._life = life
        # A text, because the hash of a tuple differs between processes.
        self._random = Random(f"{life.seed}/{life.number}")  # noqa: S311 - a simulation, not a secret
        self._count = 0
        self._display_currency = life.home
        self._spent: list[str] = []

    def events(self) -> Iterator[Request | RemovalRequest]:
        life = self._life
        began = datetime(2025, 12, 31, 8, tzinfo=UTC)
        for name, currency, units in (("main", life.home, 900), ("cash", life.home, 120), ("abroad", life.abroad, 300)):
            yield self._request(
                began,
                AccountCreated(
                    user_id=life.user,
                    account_id=life.account(name),
                    name=name.capitalize(),
                    currency=currency,
                    overdraft_limit=self._money(200, currency).amount_minor if name == "main" else 0,
                    opening_balance=self._money(units, currency).amount_minor,
                    icon="wallet",
                    colour="#2f9e44",
                ),
            )
        for number in range(life.months):
            yield from self._month(FIRST_MONTH.later(number), number)

    def _month(self, month: Month, number: int) -> Iterator[Request | RemovalRequest]:
        life, random = self._life, self._random
        first = datetime.fromisoformat(f"{month}-01T06:00:00+00:00")
        self._spent = []
        yield self._paid(first, "salary", "main", random.randint(1_500, 3_000), "salary")
        yield self._paid(first + timedelta(days=1), "rent", "main", random.randint(400, 900), "rent")
        plans = [
            *["groceries"] * random.randint(4, 6),
            *["cafe"] * random.randint(1, 3),
            "cash",
            *(["abroad", "travel"] if random.random() < 0.5 else []),
            *(["gift"] if random.random() < 0.25 else []),
            *(["removal"] if random.random() < 0.4 else []),
            *(["counted"] if random.random() < 0.4 else []),
            *(["too much"] if random.random() < 0.3 else []),
            *(["nowhere"] if random.random() < 0.2 else []),
            *(["reset"] if random.random() < 0.1 else []),
            *(["currency"] if random.random() < 0.15 else []),
        ]
        random.shuffle(plans)
        for position, plan in enumerate(plans):
            time = first + timedelta(days=2 + 25 * position // len(plans), minutes=random.randrange(600))
            yield from self._day(time, plan)
        month_end = first + timedelta(days=31)
        yield self._request(month_end, MonthResetRequested(user_id=life.user, month=month))
        if number % 4 == 3:
            # Requested again by hand, which must do nothing.
            yield self._request(month_end + timedelta(hours=1), MonthResetRequested(user_id=life.user, month=month))

    def _day(self, time: datetime, plan: str) -> Iterator[Request | RemovalRequest]:
        life, random = self._life, self._random
        match plan:
            case "groceries":
                yield self._paid(time, "groceries", random.choice(["main", "cash"]), random.randint(10, 90), "market")
            case "cafe":
                yield self._paid(time, "cafes", "cash", random.randint(3, 25), "coffee")
            case "travel":
                yield self._paid(time, "travel", "abroad", random.randint(20, 150), "on the way")
            case "gift":
                yield self._paid(time, "gifts", "cash", random.randint(20, 100), "from grandmother")
            case "cash":
                yield self._moved(time, "main", "cash", random.randint(100, 300), life.home)
            case "abroad":
                yield self._moved(time, "main", "abroad", random.randint(50, 300), life.home)
            case "too much":
                yield self._moved(time, "cash", "main", 1_000_000, life.home)
            case "nowhere":
                # The event names both amounts, so that only the deposit discovers that the account does not exist.
                amount = self._money(random.randint(5, 50), life.home)
                yield self._request(
                    time,
                    MoneyTransferRequested(
                        user_id=life.user,
                        from_account_id=life.account("main"),
                        to_account_id=life.account("closed"),
                        amount=amount,
                        arriving=amount,
                    ),
                )
            case "counted":
                value = self._money(random.randint(20, 200), life.home)
                edit = AccountValueEditRequested(
                    user_id=life.user, account_id=life.account("cash"), value=value, note="counted"
                )
                yield self._request(time, edit)
            case "removal":
                if self._spent:
                    self._count += 1
                    yield RemovalRequest(self._id(), time, random.choice(self._spent))
            case "reset":
                budget_type = random.choice([*BudgetType])
                yield self._request(time, CategoryResetRequested(user_id=life.user, budget_type=budget_type))
            case _:
                self._display_currency = random.choice([code for code in HOMES if code != self._display_currency])
                yield self._request(time, CurrencyChangeRequested(user_id=life.user, currency=self._display_currency))

    def _paid(self, time: datetime, category: str, account: str, units: int, note: str) -> Request:
        life = self._life
        request = self._request(
            time,
            CategoryTransactionRequested(
                user_id=life.user,
                category_id=life.category(category),
                account_id=life.account(account),
                amount=self._money(units, life.abroad if account == "abroad" else life.home),
                note=note,
            ),
        )
        self._spent.append(request.event_id)
        return request

    def _moved(self, time: datetime, source: str, target: str, units: int, currency: Currency) -> Request:
        life = self._life
        return self._request(
            time,
            MoneyTransferRequested(
                user_id=life.user,
                from_account_id=life.account(source),
                to_account_id=life.account(target),
                amount=self._money(units, currency),
            ),
        )

    def _money(self, units: int, currency: Currency) -> Money:
        """Return an amount worth about `units` dollars, which is rarely a round number."""
        smallest = _WORTH[currency].scaleb(currency.minor_digits)
        odd = self._random.randrange(int(smallest))
        return Money(amount_minor=int(units * smallest) + odd, currency=currency)

    def _request(self, time: datetime, event: DomainEvent) -> Request:
        self._count += 1
        return Request(self._id(), time, event)

    def _id(self) -> str:
        return f"life-{self._life.seed}-{self._life.user}-{self._count:04}"
