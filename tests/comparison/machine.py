"""A Hypothesis state machine that generates requests of two users, and shrinks a difference to a short story.

Each rule is one way in which events arrive: one at a time, repeated, several at once, with a failing step, or with two
drivers. After each, the outcomes and every row of every table are compared.
"""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import permutations
from typing import Any, ClassVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from events.category import BudgetType
from events.identity import CategoryId, UserId
from events.money import Currency
from starter.invariants import violations
from starter.tables import EXCHANGE_RATE
from starter.users import add_category, add_user
from tests.comparison.application import Application, Fault
from tests.comparison.translation import compared, expected, translated, unlike
from tests.reference.events import (
    ChangeCurrency,
    CreateAccount,
    EditAccountValue,
    Event,
    RemoveRecord,
    ResetCategories,
    ResetMonth,
    TransactCategory,
    TransferMoney,
)
from tests.reference.ledger import Ledger
from tests.reference.money import MOST

USERS = ("olena", "taras")
CURRENCIES = ("USD", "JPY", "KWD", "EUR", "UAH")
OWN = ""
"""Stands for the account's currency, which is looked up when the event is built."""

CATEGORIES = {"salary": "income", "food": "expense", "fun": "expense"}
"""The categories of each user, prefixed with the user's name: budget type by name."""

users = st.sampled_from(["olena", "olena", "taras"])
accounts = st.sampled_from(["1", "1", "1", "2", "2", "3", "taras-1"])
"""A number is one of the user's own accounts."""
categories = st.sampled_from(
    ["salary", "salary", "food", "food", "fun", "salary", "food", "adjust-income", "taras-food", "nothing"]
)
currencies = st.sampled_from(CURRENCIES)
mostly_own = st.sampled_from([*[OWN] * 14, "USD", "JPY"])
amounts = st.one_of(
    st.integers(1, 1_000), st.integers(1, 1_000), st.integers(1, 10_000_000), st.sampled_from([MOST, MOST - 1, 10**14])
)
"""Small amounts give halves of a minor unit at the rates below, and large ones give refusals."""
balances = st.one_of(st.integers(0, 100_000), st.just(0), st.integers(0, MOST))
rates = st.sampled_from(
    [Decimal(text) for text in ("0.5", "2.5", "0.025", "0.92", "151.37", "0.3075", "1", "0.000001")]
)
PAIRS = [(base, quote) for base in CURRENCIES for quote in CURRENCIES if base < quote]
stored_rates = st.tuples(
    st.lists(rates, min_size=len(PAIRS), max_size=len(PAIRS)),
    st.lists(st.booleans(), min_size=len(PAIRS), max_size=len(PAIRS)),
    st.sets(st.sampled_from(PAIRS), max_size=2),
).map(
    lambda drawn: {
        pair[::-1] if is_reversed else pair: rate
        for pair, rate, is_reversed in zip(PAIRS, *drawn[:2], strict=True)
        if pair not in drawn[2]
    }
)
"""A rate for each pair of currencies in one of the directions, except for at most two pairs."""

creations = st.builds(
    CreateAccount,
    user=users,
    account=st.sampled_from(["2", "3", "4"]),
    currency=currencies,
    opening_balance=balances,
    overdraft_limit=st.sampled_from([0, 0, 500]),
)
transactions = st.builds(
    TransactCategory,
    user=users,
    category=categories,
    account=accounts,
    amount=amounts,
    currency=mostly_own,
    note=st.sampled_from(["", "market"]),
)
edits = st.builds(
    EditAccountValue,
    user=users,
    account=accounts,
    value=st.one_of(balances, st.integers(-600, 0)),
    currency=mostly_own,
)
removals = st.builds(RemoveRecord, user=users, record=st.integers(0, 40).map(str))
resets = st.builds(ResetCategories, user=users, budget_type=st.sampled_from(["income", "expense"]))
changes = st.builds(ChangeCurrency, user=users, currency=currencies)
months = st.builds(ResetMonth, user=users, month=st.sampled_from(["2026-01", "2026-02", "2026-03", "2026-12"]))
ways = st.sampled_from(
    [*[("1", "2")] * 4, *[("2", "1")] * 3, ("1", "3"), ("3", "2"), ("1", "1"), ("1", "taras-1"), ("taras-1", "2")]
)


def _transfer(
    user: str, way: tuple[str, str], amount: int, currency: str, arriving: int | None, into: str
) -> TransferMoney:
    return TransferMoney(user, way[0], way[1], amount, currency, arriving, into)


transfers = st.builds(_transfer, users, ways, amounts, mostly_own, st.none() | st.none() | amounts, mostly_own)
events: st.SearchStrategy[Event] = st.one_of(
    transactions, transactions, removals, transfers, edits, changes, resets, months, creations
)


class Comparison(RuleBasedStateMachine):
    """One short story of two users. The caller sets the application, which the next story uses again."""

    application: ClassVar[Application]
    counted: ClassVar[Counter[str]] = Counter()
    """How the events ended, over all stories."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.events: dict[str, Event] = {}
        self.records: dict[str, UUID] = {}
        self.application.run(self.application.clear())

    @initialize(
        stored=stored_rates,
        preferred=st.tuples(currencies, currencies),
        in_currency=st.tuples(currencies, currencies, currencies),
        has_taras=st.booleans(),
    )
    def begin(
        self,
        stored: dict[tuple[str, str], Decimal],
        preferred: tuple[str, str],
        in_currency: tuple[str, str, str],
        has_taras: bool,
    ) -> None:
        """Store some exchange rates and set up the users, except perhaps for taras."""
        self.ledger.tables.rates = dict(stored)
        set_up = {user: preferred[number] for number, user in enumerate(USERS) if has_taras or user != "taras"}
        for user, currency in set_up.items():
            own = {f"{user}-{name}": budget_type for name, budget_type in CATEGORIES.items()}
            self.ledger.set_up(user, currency, "uk-UA", own)
        self.application.run(self._set_up(stored, set_up))
        for (user, number), currency in zip((("olena", 1), ("olena", 2), ("taras", 1)), in_currency, strict=True):
            self.handle(CreateAccount(user, str(number), currency, 10_000, 500))

    async def _set_up(self, stored: dict[tuple[str, str], Decimal], users: dict[str, str]) -> None:
        async with self.application.database.transaction() as connection:
            for (base, quote), rate in stored.items():
                row = {"base": base, "quote": quote, "rate": rate, "as_of": date(2026, 1, 1)}
                await connection.execute(EXCHANGE_RATE.insert().values(**row))
            for user, currency in users.items():
                await add_user(connection, UserId(user), Currency(currency), "uk-UA")
                for name, budget_type in CATEGORIES.items():
                    category = f"{user}-{name}"
                    await add_category(
                        connection, UserId(user), CategoryId(category), category, BudgetType(budget_type)
                    )

    @rule(event=events)
    def handle(self, event: Event) -> None:
        """Handle one event alone."""
        event_id, event = self._prepare(event)
        expected_end = self.ledger.play(event_id, event)
        self._must_end(event_id, self.application.run(self._play(event_id, event)), expected_end)

    @precondition(lambda self: self.events)
    @rule(which=st.integers(min_value=0))
    def handle_again(self, which: int) -> None:
        """Handle an earlier event once more."""
        event_id = sorted(self.events)[which % len(self.events)]
        expected_end = self.ledger.play(event_id, self.events[event_id])
        self._must_end(event_id, self.application.run(self._play(event_id, self.events[event_id])), expected_end)

    @rule(event=events)
    def handle_with_two_drivers(self, event: Event) -> None:
        """Drive one saga with two drivers."""
        event_id, event = self._prepare(event)
        expected_end = self.ledger.play(event_id, event)
        for ended in self._at_once((event_id, event), (event_id, event)):
            self._must_end(event_id, ended, expected_end)

    @rule(event=events, step=st.integers(1, 6), where=st.sampled_from(["before", "after"]))
    def handle_with_a_failing_step(self, event: Event, step: int, where: Any) -> None:
        """Fail a step for good, before or after its transaction; the saga is undone unless it is past its pivot."""
        event_id, event = self._prepare(event)
        ended = self.application.run(self._play(event_id, event, Fault(step, where)))
        if ended == "operation.failed":
            self.ledger.outcomes[event_id] = ended
            self.events[event_id] = event
        else:
            self._must_end(event_id, ended, self.ledger.play(event_id, event))

    @rule(concurrent=st.lists(events, min_size=2, max_size=3))
    def handle_at_once(self, concurrent: list[Event]) -> None:
        """Handle events concurrently; outcomes and tables must be those of some sequential order."""
        prepared = [self._prepare(event) for event in concurrent]
        outcomes = self._at_once(*prepared)
        actual = compared(self.application.run(self.application.tables()))
        stories: list[str] = []
        for order in permutations(range(len(prepared))):
            ledger = self.ledger.copy()
            modelled = {number: ledger.play(*prepared[number]) for number in order}
            differing = [
                f"{prepared[number][0]} ended as {outcomes[number]}, not as {modelled[number]}"
                for number in order
                if modelled[number] != outcomes[number]
            ]
            differing = differing or unlike(expected(ledger.tables), actual)
            if not differing:
                self.ledger = ledger
                return
            stories.append(f"in the order {order}: " + "; ".join(differing))
        raise AssertionError("no order of these events explains how they ended:\n" + "\n".join(stories))

    @invariant()
    def is_the_same(self) -> None:
        """Compare every table, and check that nothing is left in progress."""
        tables = self.application.run(self.application.tables())
        differing = unlike(expected(self.ledger.tables), compared(tables))
        assert not differing, "\n".join(differing)
        assert all(account["state"] == "open" for account in tables["account"])
        assert all(category["counted_from"] == category["reset_epoch"] for category in tables["category"])
        self.records |= {record["event_id"]: record["id"] for record in tables["activity_record"]}

    def teardown(self) -> None:
        """Check at the end of a story that the invariants hold and that every saga has an outcome."""
        assert self.application.run(self._violations()) == []
        assert self.application.run(self.application.open_sagas()) == []

    async def _violations(self) -> list[str]:
        async with self.application.database.reading() as connection:
            return await violations(connection)

    def _prepare(self, event: Event) -> tuple[str, Event]:
        """Return an event id, and the event with full names and with its accounts' currencies."""
        event_id = f"event-{len(self.events) + 1:03}"
        event = self._completed(event)
        self.events[event_id] = event
        return event_id, event

    def _completed(self, event: Event) -> Event:
        """Return the event with full names, and with the account's currency wherever it is `OWN`."""
        match event:
            case CreateAccount():
                return replace(event, account=self._own(event.user, event.account))
            case TransactCategory() | EditAccountValue():
                account = self._own(event.user, event.account)
                event = replace(event, account=account, currency=self._currency(event.currency, account))
                if isinstance(event, EditAccountValue):
                    return event
                own = event.category in CATEGORIES or event.category.startswith("adjust")
                return replace(event, category=f"{event.user}-{event.category}" if own else event.category)
            case TransferMoney():
                source, target = self._own(event.user, event.source), self._own(event.user, event.target)
                event = replace(event, source=source, target=target, currency=self._currency(event.currency, source))
                into = self._currency(event.arriving_currency or OWN, target)
                if event.arriving is None:
                    return replace(event, arriving_currency=None)
                # The contract rejects a different amount in the same currency, so it never becomes an event.
                arriving = event.amount if into == event.currency else event.arriving
                return replace(event, arriving=arriving, arriving_currency=into)
            case RemoveRecord():
                number, records = int(event.record), self.ledger.tables.records
                removable = [
                    record.event
                    for record in records.values()
                    if record.kind == "category_value_change" and record.user == event.user
                ]
                # Mostly one of the user's own records that can be removed; sometimes any record, or a missing one.
                candidates = removable if removable and number % 5 else [*records, "none"]
                return replace(event, record=candidates[number % len(candidates)])
            case _:
                return event

    def _own(self, user: str, account: str) -> str:
        return f"{user}-{account}" if account.isdigit() else account

    def _currency(self, currency: str, account: str) -> str:
        row = self.ledger.tables.accounts.get(account)
        return currency or (row.currency if row else "USD")

    async def _play(self, event_id: str, event: Event, fault: Fault | None = None) -> str:
        orchestrator, domain_event = translated(event, self.records)
        ended = await self.application.play(orchestrator, domain_event, event_id, fault=fault)
        self.counted[f"{orchestrator.__name__} {ended}"] += 1
        return ended

    def _at_once(self, *prepared: tuple[str, Event]) -> list[str]:
        async def gathered() -> list[str]:
            return list(await asyncio.gather(*(self._play(event_id, event) for event_id, event in prepared)))

        return self.application.run(gathered())

    def _must_end(self, event_id: str, ended: str, expected_end: str) -> None:
        assert ended == expected_end, (
            f"{event_id}, {self.events[event_id]}, ended as {ended}, but the model says {expected_end}"
        )
