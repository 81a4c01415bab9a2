"""Sagas whose every step is made to fail, each with its steps and with what it changes if it completes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from activities.account import AccountState
from events.account import AccountCreated, MoneyTransferRequested
from events.identity import AccountId, UserId
from events.money import Money
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.operation import Reversal
from starter.invariants import Snapshot, differences
from tests.app.samples import (
    KWD,
    OLENA_JPY,
    OLENA_USD,
    TARAS,
    TARAS_JPY,
    TARAS_KWD,
    a_transfer,
    an_account,
    jpy,
    usd,
)
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer

CATALOG = Catalog.discover(["events", "activities", "workflows"])
OLENA_CASH = AccountId("olena-cash")
CASH = an_account(account_id=OLENA_CASH, name="Cash", opening_balance=100_00)
"""A second account in dollars, which the demo's data does not have."""

CREATING = ("account.prepare", "activity_log.record_account_created", "metadata.count_account", "account.open_account")
MOVING = ("account.withdraw", "account.deposit", "activity_log.record_transfer")
AT_THE_RATE = ("account.currency_of", "metadata.convert", *MOVING)


@dataclass(frozen=True)
class Scenario:
    """One event, and what its saga does."""

    name: str
    orchestrator: AnyOrchestrator
    event: AccountCreated | MoneyTransferRequested
    steps: tuple[str, ...]
    balances: Mapping[str, int] = field(default_factory=dict[str, int])
    """By how much each account's balance changes."""
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many rows each table gains."""
    rate: Decimal | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def undoable(self) -> list[str]:
        """Steps that have a compensation."""
        return [step for step in self.steps if CATALOG.operations[step].reversal is Reversal.COMPENSATED]

    def steps_after_failure(self, at: str, *, state: str | None) -> list[tuple[int, str, str]]:
        """The expected step rows of a saga that is undone because of one step.

        `state` is the state of that step's row, or None if it has no row.
        """
        before = self.steps[: self.steps.index(at)]
        states = [(step, "undone" if step in self.undoable else "done") for step in before]
        states += [(at, state)] if state else []
        return [(number, step, step_state) for number, (step, step_state) in enumerate(states, start=1)]


def _moved(name: str, event: MoneyTransferRequested, arrived: int, rate: str | None = None) -> Scenario:
    return Scenario(
        name,
        MoneyTransfer,
        event,
        MOVING if event.arriving else AT_THE_RATE,
        balances={event.from_account_id: -event.amount.amount_minor, event.to_account_id: arrived},
        rows={"activity_record": 1},
        rate=Decimal(rate) if rate else None,
    )


def _of_taras(**changed: object) -> MoneyTransferRequested:
    fields = {"user_id": TARAS, "from_account_id": TARAS_JPY, "to_account_id": TARAS_KWD, "amount": jpy(100_000)}
    return a_transfer(**{**fields, **changed})


FIRST_ACCOUNT = Scenario(
    "a user's first account",
    AccountCreation,
    an_account(
        user_id=UserId("nina"),
        account_id=AccountId("nina-kwd"),
        currency=KWD,
        opening_balance=-1_500,
        overdraft_limit=2_000,
    ),
    CREATING,
    rows={"account": 1, "activity_record": 1, "user_metadata": 1},
)
ANOTHER_ACCOUNT = Scenario(
    "another account", AccountCreation, an_account(), CREATING, rows={"account": 1, "activity_record": 1}
)
DOLLARS_TO_EUROS = _moved("dollars to euros at the rate", a_transfer(amount=usd(1_050)), 966, "0.92")
YEN_TO_DINARS = _moved("yen to dinars at the inverse rate", _of_taras(), 203_145, "0.00203144679640840206")
WITHIN_DOLLARS = _moved("dollars to dollars", a_transfer(to_account_id=OLENA_CASH, amount=usd(99)), 99)
DOLLARS_FOR_YEN = _moved(
    "dollars for a number of yen", a_transfer(to_account_id=OLENA_JPY, amount=usd(1_050), arriving=jpy(1_600)), 1_600
)
YEN_FOR_DINARS = _moved(
    "yen for a number of dinars", _of_taras(arriving=Money(amount_minor=200_000, currency=KWD)), 200_000
)
CASH_FOR_CASH = _moved(
    "dollars for as many dollars",
    a_transfer(from_account_id=OLENA_CASH, to_account_id=OLENA_USD, amount=usd(99), arriving=usd(99)),
    99,
)

SCENARIOS = (
    FIRST_ACCOUNT,
    ANOTHER_ACCOUNT,
    DOLLARS_TO_EUROS,
    YEN_TO_DINARS,
    WITHIN_DOLLARS,
    DOLLARS_FOR_YEN,
    YEN_FOR_DINARS,
    CASH_FOR_CASH,
)


def assert_done_once(scenario: Scenario, before: Snapshot, after: Snapshot) -> None:
    """Check that everything the scenario changes is changed once, and nothing else is.

    Raises:
        AssertionError: the message lists every row that differs.
    """
    message = "\n".join(differences(before, after))
    gained = Counter({name: len(after[name].keys() - before[name].keys()) for name in after})
    assert +gained == Counter(scenario.rows), message
    assert all(before[name].keys() <= after[name].keys() for name in before), message
    changed = {
        key[0]: after["account"][key]["balance"] - row["balance"]
        for key, row in before["account"].items()
        if after["account"][key]["balance"] != row["balance"]
    }
    assert changed == scenario.balances, message
    user = (scenario.event.user_id,)
    if isinstance(scenario.event, AccountCreated):
        account = after["account"][scenario.event.account_id,]
        assert account["state"] == AccountState.OPEN
        assert account["balance"] == scenario.event.opening_balance
        counted = before["user_metadata"].get(user, {"account_count": 0})["account_count"]
        assert after["user_metadata"][user]["account_count"] == counted + 1
    else:
        [record] = [row for key, row in after["activity_record"].items() if key not in before["activity_record"]]
        assert record["rate"] == scenario.rate
