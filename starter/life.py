"""A year of believable life, as events: what each user earns, spends, moves, corrects, takes back and resets.

Everything comes from the seed: whoever asks again with the same gets the same events, with the same ids and times. A
user's events are in order, and each may count on the one before: publish it when that one has its outcome.
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
"""Of each user, named after them."""

_WORTH = {"UAH": Decimal(40), "USD": Decimal(1), "EUR": Decimal(1), "JPY": Decimal(150), "KWD": Decimal("0.3")}
"""Roughly how many units buy the same: for amounts that somebody may really pay."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that a user asks for."""

    event_id: str
    time: datetime
    event: DomainEvent


@dataclass(frozen=True, slots=True)
class TakenBack:
    """The record that an earlier event left is to be removed. Its id is known when that event has its outcome."""

    event_id: str
    time: datetime
    left_by: str
    """That event's id."""


@dataclass(frozen=True, slots=True)
class Life:
    """One user's.

    Args:
        seed: of the whole simulation.
        number: the user's, from 1.
        months: how many.
    """

    seed: int
    number: int
    months: int

    @property
    def user(self) -> UserId:
        """Who."""
        return UserId(f"user-{self.number:03}")

    @property
    def home(self) -> Currency:
        """Of their main account, and what they see categories in at first."""
        return HOMES[self.number % len(HOMES)]

    @property
    def abroad(self) -> Currency:
        """Of the account they keep for elsewhere."""
        return next(one for one in (ABROAD[self.number % 3], ABROAD[(self.number + 1) % 3]) if one != self.home)

    def category(self, name: str) -> CategoryId:
        """One of their categories."""
        return CategoryId(f"{self.user}-{name}")

    def account(self, name: str) -> AccountId:
        """One of their accounts."""
        return AccountId(f"{self.user}-{name}")

    def events(self) -> Iterator[Asked | TakenBack]:
        """All of it, in order."""
        return _Year(self).events()


class _Year:
    """Makes up one life, month by month."""

    def __init__(self, life: Life) -> None:
        self._life = life
        # Text, because a tuple's hash differs from process to process.
        self._random = Random(f"{life.seed}/{life.number}")  # noqa: S311 - a simulation, not a secret
        self._count = 0
        self._shown = life.home
        self._spent: list[str] = []

    def events(self) -> Iterator[Asked | TakenBack]:
        life = self._life
        began = datetime(2025, 12, 31, 8, tzinfo=UTC)
        for name, currency, units in (("main", life.home, 900), ("cash", life.home, 120), ("abroad", life.abroad, 300)):
            yield self._asked(
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

    def _month(self, month: Month, number: int) -> Iterator[Asked | TakenBack]:
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
            *(["taken back"] if random.random() < 0.4 else []),
            *(["counted"] if random.random() < 0.4 else []),
            *(["too much"] if random.random() < 0.3 else []),
            *(["nowhere"] if random.random() < 0.2 else []),
            *(["reset"] if random.random() < 0.1 else []),
            *(["currency"] if random.random() < 0.15 else []),
        ]
        random.shuffle(plans)
        for place, plan in enumerate(plans):
            time = first + timedelta(days=2 + 25 * place // len(plans), minutes=random.randrange(600))
            yield from self._day(time, plan)
        over = first + timedelta(days=31)
        yield self._asked(over, MonthResetRequested(user_id=life.user, month=month))
        if number % 4 == 3:
            # By hand, though the schedule has done it: harmless.
            yield self._asked(over + timedelta(hours=1), MonthResetRequested(user_id=life.user, month=month))

    def _day(self, time: datetime, plan: str) -> Iterator[Asked | TakenBack]:
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
                # The amount that arrives is named, so that only the deposit finds that there is no such account.
                amount = self._money(random.randint(5, 50), life.home)
                yield self._asked(
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
                yield self._asked(time, edit)
            case "taken back":
                if self._spent:
                    self._count += 1
                    yield TakenBack(self._id(), time, random.choice(self._spent))
            case "reset":
                budget_type = random.choice([*BudgetType])
                yield self._asked(time, CategoryResetRequested(user_id=life.user, budget_type=budget_type))
            case _:
                self._shown = random.choice([one for one in HOMES if one != self._shown])
                yield self._asked(time, CurrencyChangeRequested(user_id=life.user, currency=self._shown))

    def _paid(self, time: datetime, category: str, account: str, units: int, note: str) -> Asked:
        life = self._life
        asked = self._asked(
            time,
            CategoryTransactionRequested(
                user_id=life.user,
                category_id=life.category(category),
                account_id=life.account(account),
                amount=self._money(units, life.abroad if account == "abroad" else life.home),
                note=note,
            ),
        )
        self._spent.append(asked.event_id)
        return asked

    def _moved(self, time: datetime, source: str, target: str, units: int, currency: Currency) -> Asked:
        life = self._life
        return self._asked(
            time,
            MoneyTransferRequested(
                user_id=life.user,
                from_account_id=life.account(source),
                to_account_id=life.account(target),
                amount=self._money(units, currency),
            ),
        )

    def _money(self, units: int, currency: Currency) -> Money:
        """As much as so many dollars, give or take; never a round number."""
        smallest = _WORTH[currency].scaleb(currency.minor_digits)
        odd = self._random.randrange(int(smallest))
        return Money(amount_minor=int(units * smallest) + odd, currency=currency)

    def _asked(self, time: datetime, event: DomainEvent) -> Asked:
        self._count += 1
        return Asked(self._id(), time, event)

    def _id(self) -> str:
        return f"life-{self._life.seed}-{self._life.user}-{self._count:04}"
