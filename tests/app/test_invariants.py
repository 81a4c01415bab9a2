"""The checker and the seed: every kind of damage is found and described so that a person can look for it."""

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from activities import account, activity_log, category, metadata, snapshot
from events.category import CategoryTransactionRequested
from events.identity import AccountId
from events.metadata import CurrencyChangeRequested
from events.money import MONEY_LIMIT, Money
from events.snapshot import MonthResetRequested
from orchestrator import DomainEvent, Refused
from starter.invariants import differences
from starter.seed import seed
from starter.tables import (
    ACCOUNT,
    ACTIVITY_RECORD,
    APPLICATION_TABLES,
    CATEGORY,
    EXCHANGE_RATE,
    MONTH_SNAPSHOT,
    USER_METADATA,
)
from tests.app.books import Books
from tests.app.samples import (
    NOWHERE,
    OLENA,
    OLENA_EUR,
    OLENA_USD,
    TARAS_JPY,
    USD,
    a_transfer,
    an_account,
    eur,
    usd,
)
from workflows.account_creation import AccountCreation
from workflows.category_transaction import CategoryTransaction
from workflows.currency_change import CurrencyChange
from workflows.money_transfer import MoneyTransfer
from workflows.month_reset import MonthReset

OF_OLENA_USD = ACCOUNT.update().where(ACCOUNT.c.id == OLENA_USD)
OF_OLENA = USER_METADATA.update().where(USER_METADATA.c.user_id == OLENA)
OF_TRANSFERS = ACTIVITY_RECORD.update().where(ACTIVITY_RECORD.c.kind == "money_transfer")


async def test_the_demos_data_meets_every_invariant(books: Books) -> None:
    assert await books.violations() == []


async def test_seeding_again_changes_nothing(books: Books) -> None:
    await books.handle(MoneyTransfer, a_transfer())
    before = await books.snapshot()

    async with books.database.transaction() as connection:
        await seed(connection)

    assert differences(before, await books.snapshot()) == []


def test_the_checker_knows_every_table_of_the_activities() -> None:
    """A new domain must bring its own checks."""
    models = [
        value for module in (account, activity_log, category, metadata, snapshot) for value in vars(module).values()
    ]
    tables = {str(getattr(model, "__tablename__", "")) for model in models if hasattr(model, "__table__")}

    assert {table.name for table in APPLICATION_TABLES} == tables


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (OF_OLENA_USD.values(balance=7), "account olena-usd holds 7, but its records add up to 99998950"),
        (OF_OLENA_USD.values(state="opening"), "account olena-usd is still opening: its creation was neither"),
        (OF_OLENA_USD.values(opening_balance=5), "account olena-usd has 0 records of its creation and must have one"),
        (OF_OLENA.values(account_count=4), "user olena is counted as having 4 accounts, but has 3"),
        (USER_METADATA.delete(), "user olena is counted as having 0 accounts, but has 3"),
        (USER_METADATA.insert().values(user_id="ghost", account_count=1), "user ghost is counted as having 1 accounts"),
        (OF_TRANSFERS.values(amount_in=967), "$10.50 at 0.92 is not €9.67"),
        (OF_TRANSFERS.values(currency_in="USD", rate=None), "withdrew $10.50 but deposited $9.66 in the same currency"),
        (OF_TRANSFERS.values(currency_in="USD", rate=None), "has USD to an account that is kept in EUR"),
        (OF_TRANSFERS.values(event_id="seed-olena-usd", kind="account_created"), "left 2 records of the kind account"),
        (ACTIVITY_RECORD.delete(), "account olena-eur holds 50000966, but its records add up to 50000000"),
    ],
)
async def test_damage_is_found(books: Books, damage: Any, expected: str) -> None:
    await books.handle(MoneyTransfer, a_transfer())
    assert await books.violations() == []

    if "kind" in damage.compile().params:
        damage = damage.values(account_id="olena-usd", amount=1, currency="USD")
    await books.write(damage)

    assert [violation for violation in await books.violations() if expected in violation]


@pytest.mark.parametrize("account_id", [OLENA_EUR, TARAS_JPY])
async def test_an_account_that_records_refer_to_cannot_be_deleted(books: Books, account_id: AccountId) -> None:
    await books.handle(MoneyTransfer, a_transfer())

    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        await books.write(ACCOUNT.delete().where(ACCOUNT.c.id == account_id))


OF_GROCERIES = CATEGORY.update().where(CATEGORY.c.id == "olena-groceries")
OF_SPENT = ACTIVITY_RECORD.update().where(ACTIVITY_RECORD.c.kind == "category_value_change")
OF_MONTHS = MONTH_SNAPSHOT.update()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (OF_GROCERIES.values(value=7), "category olena-groceries has the value 7, but its records add up to 174290"),
        (OF_GROCERIES.values(reset_epoch=2, counted_from=2), "has the value 174290, but its records add up to 0"),
        (OF_GROCERIES.values(currency="EUR"), "category olena-groceries is kept in EUR, but olena sees UAH"),
        (OF_GROCERIES.values(currency_epoch=1), "has the currency epoch 1, but the newest change is 0"),
        (CATEGORY.update().values(is_system=False), "user olena has 0 system categories for income"),
        (OF_SPENT.values(removing="gone"), "is claimed by gone, whose removal was neither completed nor undone"),
        (OF_SPENT.values(converted=1), "4215 of USD is 174290 of UAH, not 1"),
        (OF_SPENT.values(rate=None), "has UAH for USD and no rate"),
        (OF_SPENT.values(amount=4216), "account olena-usd holds 99995785, but its records add up to 99995784"),
        (
            OF_MONTHS.values(income=5, month_balance=5),
            "month 2026-01 of olena says 5 - 0 = 5, but its",
        ),
    ],
)
async def test_damage_to_categories_is_found(books: Books, damage: Any, expected: str) -> None:
    await books.handle(MonthReset, MonthResetRequested.example())
    await books.handle(CategoryTransaction, CategoryTransactionRequested.example())
    assert await books.violations() == []

    await books.write(damage)

    assert [violation for violation in await books.violations() if expected in violation]


async def test_rounding_in_a_change_of_currency_is_allowed_and_a_larger_difference_is_found(books: Books) -> None:
    await books.handle(CategoryTransaction, CategoryTransactionRequested.example())
    await books.handle(CurrencyChange, CurrencyChangeRequested.example())
    assert await books.violations() == []
    value = (await books.row("category", "olena-groceries"))["value"]

    await books.write(OF_GROCERIES.values(value=value + 1))

    assert [violation for violation in await books.violations() if "olena-groceries has the value" in violation]


async def test_a_lost_update_is_found(books: Books) -> None:
    await books.handle(MoneyTransfer, a_transfer())
    await books.run(account.deposit(OLENA, OLENA_USD, usd(1)))

    assert await books.violations() == ["account olena-usd holds 99998951, but its records add up to 99998950"]


async def test_a_doubled_record_is_found(books: Books) -> None:
    await books.handle(MoneyTransfer, a_transfer())
    records = (await books.snapshot())["activity_record"].values()
    [record] = [record for record in records if record["kind"] == "money_transfer"]
    doubled = activity_log.record_transfer(OLENA, OLENA_USD, OLENA_EUR, usd(1), eur(1), None)
    again = await books.run(doubled)
    await books.write(ACTIVITY_RECORD.update().where(ACTIVITY_RECORD.c.id == again).values(event_id=record["event_id"]))

    assert f"event {record['event_id']} left 2 records of the kind money_transfer" in await books.violations()


async def test_differences_name_the_row_the_column_and_both_values(books: Books) -> None:
    before = await books.snapshot()
    await books.run(account.prepare(OLENA, AccountId("new"), "New", USD, 0, 0, "wallet", "#2f9e44"))
    await books.run(metadata.count_account(OLENA))
    await books.write(EXCHANGE_RATE.delete().where(EXCHANGE_RATE.c.base == "KWD", EXCHANGE_RATE.c.quote == "JPY"))
    await books.write(OF_OLENA_USD.values(balance=-MONEY_LIMIT))

    lines = differences(before, await books.snapshot())

    assert [line.partition(": ")[0] for line in lines] == [
        "account new is new",
        "account olena-usd",
        "exchange_rate KWD/JPY is gone",
        "user_metadata olena",
    ]
    assert lines[1] == "account olena-usd: balance was 100000000 and is -1000000000000000"
    assert lines[3] == "user_metadata olena: account_count was 3 and is 4"


async def test_the_same_number_of_another_type_is_a_difference(books: Books) -> None:
    before = await books.snapshot()
    after = {**before, "user_metadata": {("olena",): {**before["user_metadata"]["olena",], "account_count": 3.0}}}

    assert [difference for difference in differences(before, after) if "3.0" in difference]


GROCERIES = CategoryTransactionRequested.example()
TO_CASH = a_transfer(to_account_id=AccountId("olena-cash"))


async def does_nothing(*_: Any, **__: Any) -> None:
    """A body that does nothing."""


def twice(body: Any) -> Any:
    """Return a body that runs the given one twice."""

    async def again(*arguments: Any, **named: Any) -> Any:
        await body(*arguments, **named)
        return await body(*arguments, **named)

    return again


def never(_body: Any) -> Any:
    """Return a body that does nothing."""
    return does_nothing


def generous(_body: Any) -> Any:
    """Return a body that adds a cent."""
    return a_cent_too_much


async def a_cent_too_much(*_: Any, amount: Money, **__: Any) -> metadata.Converted:
    """Convert within one currency and add a cent."""
    return metadata.Converted(amount=usd(amount.amount_minor + 1), rate=None)


@pytest.mark.parametrize(
    ("operation", "broken", "orchestrator", "event", "expected"),
    [
        (account.withdraw, never, CategoryTransaction, GROCERIES, "account olena-usd holds"),
        (account.deposit, twice, MoneyTransfer, a_transfer(), "account olena-eur holds"),
        (category.add, twice, CategoryTransaction, GROCERIES, "category olena-groceries has the value"),
        (metadata.count_account, never, AccountCreation, an_account(), "user olena is counted as"),
        (metadata.convert, generous, MoneyTransfer, TO_CASH, "in the same currency"),
    ],
    ids=["1, a debit", "1, a credit", "2", "3", "5"],
)
async def test_broken_code_breaks_an_invariant(
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
    operation: Any,
    broken: Any,
    orchestrator: Any,
    event: DomainEvent,
    expected: str,
) -> None:
    """Invariants 1, 2, 3 and 5 are each broken by an operation with a bug."""
    await books.handle(AccountCreation, an_account(account_id=AccountId("olena-cash")))
    monkeypatch.setattr(operation, "body", broken(operation.body))
    books.has_only_sagas = False

    await books.handle(orchestrator, event)

    assert [violation for violation in await books.violations() if expected in violation]


@pytest.mark.parametrize("compensation", ["nothing", "twice"])
async def test_a_broken_compensation_breaks_the_fourth_invariant(
    books: Books, monkeypatch: pytest.MonkeyPatch, compensation: str
) -> None:
    """The fourth invariant: after a failed process every table is as it was before."""
    undo = account.withdraw.compensate
    monkeypatch.setattr(account.withdraw, "compensate", twice(undo) if compensation == "twice" else does_nothing)
    books.has_only_sagas = False
    before = await books.snapshot()

    with pytest.raises(Refused):
        await books.handle(MoneyTransfer, a_transfer(to_account_id=NOWHERE, arriving=eur(1)))

    [difference] = differences(before, await books.snapshot())
    assert difference.startswith("account olena-usd: balance was 100000000 and is ")
