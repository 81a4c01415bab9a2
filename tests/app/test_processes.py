"""The six processes around categories, on a database: what each leaves behind, and what it refuses."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities import activity_log, category
from events.account import AccountValueEditRequested
from events.category import BudgetType
from events.identity import UserId
from events.money import Currency, Money, minor_units_between
from orchestrator import DomainEvent, Orchestrator, Refused
from starter.invariants import differences
from starter.tables import ACCOUNT, CATEGORY, EXCHANGE_RATE, USER_METADATA
from tests.app.books import Books, ImmediateSaga
from tests.app.samples import EUR, NOWHERE, OLENA, OLENA_EUR, OLENA_JPY, OLENA_USD, TARAS_JPY, eur, jpy, usd
from tests.app.samples_of_categories import (
    FOUND,
    GROCERIES,
    LOST,
    PENSION,
    SALARY,
    changing,
    earning,
    editing,
    ending,
    removing,
    resetting,
    spending,
    uah,
)
from workflows.account_value_edit import AccountValueEdit
from workflows.activity_record_removal import ActivityRecordRemoval
from workflows.category_reset import CategoryReset
from workflows.category_transaction import CategoryTransaction
from workflows.currency_change import CurrencyChange
from workflows.month_reset import MonthReset

OPENING = 1_000_000_00
NEW = UserId("newcomer")


async def balance(books: Books, account_id: str = OLENA_USD) -> int:
    """Read an account's balance."""
    stored: int = (await books.row("account", account_id))["balance"]
    return stored


async def value(books: Books, category_id: str = GROCERIES) -> int:
    """Read a category's value."""
    stored: int = (await books.row("category", category_id))["value"]
    return stored


async def last_record(books: Books, kind: str = "category_value_change") -> dict[str, Any]:
    """Read the only record of its kind."""
    [row] = [row for row in (await books.snapshot())["activity_record"].values() if row["kind"] == kind]
    return dict(row)


async def refusal_code(books: Books, orchestrator: type[Orchestrator[Any, Any, Any]], event: DomainEvent) -> str:
    """Handle an event that must be refused and change nothing; return the code."""
    before = await books.snapshot()
    with pytest.raises(Refused) as raised:
        await books.handle(orchestrator, event)
    assert differences(before, await books.snapshot()) == []
    return raised.value.code


class TestCategoryTransaction:
    """Income and expenses."""

    async def test_an_expense_is_taken_from_its_account_and_added_to_its_category(self, books: Books) -> None:
        completed = await books.handle(CategoryTransaction, spending())

        assert (completed.converted, completed.rate) == (uah(174_290), Decimal("41.35"))  # 1742.9025
        assert (await balance(books), await value(books)) == (OPENING - 42_15, 174_290)
        record = await last_record(books)
        assert (record["amount"], record["converted"], record["rate"]) == (42_15, 174_290, Decimal("41.35"))
        assert (record["budget_type"], record["note"], record["reset_epoch"]) == ("expense", "market", 0)
        assert await books.violations() == []

    async def test_an_income_is_added_to_its_account(self, books: Books) -> None:
        await books.handle(CategoryTransaction, earning())

        assert (await balance(books), await value(books, SALARY)) == (OPENING + 42_15, 174_290)

    async def test_an_amount_that_rounds_to_the_smallest_unit_can_be_spent(self, books: Books) -> None:
        await books.write(USER_METADATA.update().where(USER_METADATA.c.user_id == OLENA).values(display_currency="USD"))
        await books.write(CATEGORY.update().where(CATEGORY.c.user_id == OLENA).values(currency="USD"))

        await books.handle(CategoryTransaction, spending(account_id=OLENA_JPY, amount=jpy(1)))

        assert (await balance(books, OLENA_JPY), await value(books)) == (12_000_000 - 1, 1)  # half a cent and more
        assert await books.violations() == []

    @pytest.mark.parametrize(
        ("event", "code"),
        [
            (spending(category_id=PENSION), "category.not_found"),
            (spending(account_id=TARAS_JPY, amount=jpy(1)), "account.not_found"),
            (spending(account_id=NOWHERE), "account.not_found"),
            (spending(amount=eur(1)), "account.currency_mismatch"),
            (spending(amount=usd(OPENING + 1)), "account.insufficient_funds"),
            (earning(amount=usd(10**15)), "currency.amount_too_large"),
            (spending(amount=Money(amount_minor=1, currency=Currency("GBP"))), "currency.rate_unknown"),
        ],
    )
    async def test_a_refusal_leaves_every_row_as_it_was(self, books: Books, event: DomainEvent, code: str) -> None:
        assert await refusal_code(books, CategoryTransaction, event) == code


class TestAccountValueEdit:
    """Correcting what an account holds."""

    async def test_a_lower_value_is_an_expense(self, books: Books) -> None:
        completed = await books.handle(AccountValueEdit, editing())

        assert completed.difference == usd(-50_00)
        assert (await balance(books), await value(books, LOST)) == (999_950_00, 206_750)
        assert (await last_record(books))["note"] == "counted"
        assert await books.violations() == []

    async def test_a_higher_value_is_an_income(self, books: Books) -> None:
        await books.handle(AccountValueEdit, editing(value=usd(OPENING + 1_00)))

        assert (await balance(books), await value(books, FOUND)) == (OPENING + 1_00, 41_35)

    async def test_an_unchanged_value_is_logged_with_its_note(self, books: Books) -> None:
        completed = await books.handle(AccountValueEdit, editing(value=usd(OPENING)))

        assert completed.difference == usd(0)
        record = await last_record(books)
        assert (record["amount"], record["budget_type"], record["note"]) == (0, "income", "counted")

    @pytest.mark.parametrize(
        ("event", "code"),
        [
            (editing(value=usd(-1)), "account.insufficient_funds"),
            (editing(value=eur(1)), "account.currency_mismatch"),
            (editing(account_id=TARAS_JPY, value=jpy(1)), "account.not_found"),
        ],
    )
    async def test_a_refusal_leaves_every_row_as_it_was(
        self, books: Books, event: AccountValueEditRequested, code: str
    ) -> None:
        assert await refusal_code(books, AccountValueEdit, event) == code

    async def test_a_user_who_was_never_set_up_cannot_adjust_a_value(self, books: Books) -> None:
        await books.write(CATEGORY.delete().where(CATEGORY.c.is_system, CATEGORY.c.user_id == OLENA))

        assert await refusal_code(books, AccountValueEdit, editing()) == "category.not_found"

    async def test_an_account_below_its_limit_can_be_corrected_upwards(self, books: Books) -> None:
        await books.write(ACCOUNT.update().where(ACCOUNT.c.id == OLENA_USD).values(balance=-500))

        await books.handle(AccountValueEdit, editing(value=usd(-300)))

        assert await balance(books) == -300


class TestActivityRecordRemoval:
    """Removing a record."""

    @pytest.mark.parametrize("event", [spending(), earning()])
    async def test_a_removed_record_leaves_no_trace(self, books: Books, event: DomainEvent) -> None:
        before = await books.snapshot()
        await books.handle(CategoryTransaction, event)

        completed = await books.handle(ActivityRecordRemoval, removing((await last_record(books))["id"]))

        assert completed.was_reset_since is False
        assert differences(before, await books.snapshot()) == []

    async def test_after_a_reset_only_the_account_changes(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        record = (await last_record(books))["id"]
        await books.handle(CategoryReset, resetting())
        await books.handle(CategoryTransaction, spending(amount=usd(1_00)))

        completed = await books.handle(ActivityRecordRemoval, removing(record))

        assert completed.was_reset_since is True
        assert (await balance(books), await value(books)) == (OPENING - 1_00, 41_35)

    async def test_after_changes_of_currency_the_current_contribution_is_removed(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        record = (await last_record(books))["id"]
        for code in ("EUR", "JPY"):
            await books.handle(CurrencyChange, changing(code))
        assert await value(books) != 0

        await books.handle(ActivityRecordRemoval, removing(record))

        assert (await balance(books), await value(books)) == (OPENING, 0)

    async def test_an_income_that_has_been_spent_cannot_be_removed(self, books: Books) -> None:
        await books.handle(CategoryTransaction, earning())
        await books.write(ACCOUNT.update().where(ACCOUNT.c.id == OLENA_USD).values(balance=42_14))

        event = removing((await last_record(books))["id"])

        assert await refusal_code(books, ActivityRecordRemoval, event) == "account.insufficient_funds"

    async def test_removing_an_adjustment_of_zero_does_not_change_the_account(self, books: Books) -> None:
        before = await books.snapshot()
        await books.handle(AccountValueEdit, editing(value=usd(OPENING)))

        await books.handle(ActivityRecordRemoval, removing((await last_record(books))["id"]))

        assert differences(before, await books.snapshot()) == []

    async def test_a_claimed_record_cannot_be_removed_by_another_saga(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        record: UUID = (await last_record(books))["id"]
        first = ImmediateSaga(books, "ActivityRecordRemoval", event_id="first")
        await first.execute(activity_log.claim_removal(OLENA, record))

        assert await refusal_code(books, ActivityRecordRemoval, removing(record)) == "activity_log.being_removed"

    async def test_only_a_users_own_category_changes_can_be_removed(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        record = (await last_record(books))["id"]
        await books.handle(CategoryReset, resetting())
        reset = (await last_record(books, "categories_reset"))["id"]

        assert await refusal_code(books, ActivityRecordRemoval, removing(reset)) == "activity_log.not_removable"
        of_taras = removing(record, user_id=UserId("taras"))
        assert await refusal_code(books, ActivityRecordRemoval, of_taras) == "activity_log.not_found"
        assert await refusal_code(books, ActivityRecordRemoval, removing(uuid4())) == "activity_log.not_found"


class TestCategoryReset:
    """Setting categories to zero."""

    async def test_one_budget_type_is_set_to_zero_and_the_other_is_not(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        await books.handle(CategoryTransaction, earning())

        completed = await books.handle(CategoryReset, resetting())

        assert completed.categories == 3
        assert (await value(books), await value(books, SALARY)) == (0, 174_290)
        assert (await last_record(books, "categories_reset"))["budget_type"] == "expense"

    async def test_undoing_a_reset_adds_the_old_value_to_what_was_added_meanwhile(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        saga = ImmediateSaga(books, "CategoryReset", event_id="reset")
        await saga.execute(category.reset(OLENA, BudgetType.EXPENSE))
        await books.handle(CategoryTransaction, spending(amount=usd(1_00)))

        await saga.undo()

        assert await value(books) == 174_290 + 41_35
        row = await books.row("category", GROCERIES)
        assert (row["counted_from"], row["reset_epoch"]) == (0, 1)

    async def test_undoing_an_addition_from_before_a_reset_subtracts_nothing(self, books: Books) -> None:
        saga = ImmediateSaga(books, "CategoryTransaction", event_id="early")
        await saga.execute(category.add(OLENA, GROCERIES, uah(500), 0))
        await books.handle(CategoryReset, resetting())

        await saga.undo()

        assert await value(books) == 0


class TestCurrencyChange:
    """Changing the display currency."""

    async def test_every_category_is_converted_and_the_log_is_unchanged(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())

        completed = await books.handle(CurrencyChange, changing("EUR"))

        assert (completed.before, completed.currency) == ("UAH", "EUR")
        row = await books.row("category", GROCERIES)
        assert (row["currency"], row["value"], row["currency_epoch"]) == ("EUR", 38_77, 1)
        assert (await books.row("user_metadata", OLENA))["display_currency"] == "EUR"
        assert (await last_record(books))["converted_currency"] == "UAH"

    @pytest.mark.parametrize(("code", "error"), [("UAH", "currency.unchanged"), ("GBP", "currency.rate_unknown")])
    async def test_a_refusal_leaves_every_row_as_it_was(self, books: Books, code: str, error: str) -> None:
        assert await refusal_code(books, CurrencyChange, changing(code)) == error

    async def test_a_user_who_was_never_set_up_has_no_currency_to_change(self, books: Books) -> None:
        event = changing("EUR").model_copy(update={"user_id": NEW})

        assert await refusal_code(books, CurrencyChange, event) == "currency.not_chosen"

    async def test_undoing_a_change_converts_what_was_added_meanwhile(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        saga = ImmediateSaga(books, "CurrencyChange", event_id="change")
        rate = Decimal("0.02")
        await saga.execute(category.convert_all(OLENA, Currency("UAH"), EUR, rate))
        await saga.execute(category.add(OLENA, GROCERIES, eur(1_00), 1))
        added = saga.done.pop()

        await saga.undo()
        assert await value(books) == 174_290 + 50_00

        await books.undo(*added)
        assert await value(books) == 174_290

    async def test_an_amount_in_an_earlier_currency_is_converted_before_it_is_added(self, books: Books) -> None:
        await books.handle(CurrencyChange, changing("EUR"))

        await books.run(category.add(OLENA, GROCERIES, uah(44_95), 0))

        assert await value(books) == 1_00


class TestMonthReset:
    """Ending a month."""

    async def test_a_month_is_saved_and_every_category_starts_again(self, books: Books) -> None:
        await books.handle(CategoryTransaction, spending())
        await books.handle(CategoryTransaction, earning(amount=usd(100_00)))

        completed = await books.handle(MonthReset, ending())

        assert completed.was_due
        tables = await books.snapshot()
        month = tables["month_snapshot"]["olena", "2026-01"]
        assert (month["income"], month["expense"], month["month_balance"]) == (413_500, 174_290, 239_210)
        saved = {key[2]: row["value"] for key, row in tables["month_category"].items() if row["value"]}
        assert saved == {"olena-salary": 413_500, "olena-groceries": 174_290}
        assert (await value(books), await value(books, SALARY)) == (0, 0)
        assert (await books.row("user_metadata", OLENA))["last_reset_month"] == "2026-01"
        assert month["full_balance"] == sum(
            minor_units_between(row["balance"], Currency(row["currency"]), Currency("UAH"), rate)
            for row, rate in (
                (await books.row("account", OLENA_USD), Decimal("41.35")),
                (await books.row("account", OLENA_EUR), Decimal("44.95")),
                (await books.row("account", OLENA_JPY), Decimal("0.27318")),
            )
        )

    @pytest.mark.parametrize("month", ["2026-01", "2025-12"])
    async def test_a_month_that_was_already_reset_is_left_alone(self, books: Books, month: str) -> None:
        await books.handle(MonthReset, ending())
        await books.handle(CategoryTransaction, spending())
        before = await books.snapshot()

        completed = await books.handle(MonthReset, ending(month))

        assert completed.was_due is False
        assert differences(before, await books.snapshot()) == []

    async def test_a_missing_rate_refuses_the_reset(self, books: Books) -> None:
        await books.write(EXCHANGE_RATE.delete().where(EXCHANGE_RATE.c.quote == "UAH", EXCHANGE_RATE.c.base == "JPY"))

        assert await refusal_code(books, MonthReset, ending()) == "currency.rate_unknown"

    async def test_a_user_who_was_never_set_up_cannot_reset_a_month(self, books: Books) -> None:
        assert (
            await refusal_code(books, MonthReset, ending().model_copy(update={"user_id": NEW})) == "currency.not_chosen"
        )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["JPY", "USD", "KWD"]),
    st.sampled_from(["JPY", "USD", "KWD"]),
    st.integers(-(10**15), 10**15),
    st.decimals("0.00000001", "100000", places=8),
)
def test_amounts_round_half_even_as_decimal_does(source: str, target: str, amount: int, rate: Decimal) -> None:
    source_currency, target_currency = Currency(source), Currency(target)
    digits = {"JPY": 0, "USD": 2, "KWD": 3}

    with localcontext() as exact:
        exact.prec = 80
        units = Decimal(amount).scaleb(-digits[source]) * rate
        expected = int(units.scaleb(digits[target]).quantize(Decimal(1), ROUND_HALF_EVEN))

    assert minor_units_between(amount, source_currency, target_currency, rate) == expected


@pytest.mark.parametrize(
    ("amount", "source", "target", "rate", "expected"),
    [
        (5, "USD", "JPY", "10", 0),  # 0.5 yen
        (15, "USD", "JPY", "10", 2),  # 1.5
        (25, "USD", "JPY", "10", 2),  # 2.5
        (-5, "USD", "JPY", "10", 0),
        (-15, "USD", "JPY", "10", -2),
        (-25, "USD", "JPY", "10", -2),
        (1, "JPY", "KWD", "0.0005", 0),  # half a fils
        (3, "JPY", "KWD", "0.0005", 2),
        (5, "KWD", "USD", "1", 0),  # half a cent
        (15, "KWD", "USD", "1", 2),
    ],
)
def test_a_half_rounds_to_the_even_neighbour_in_any_currency(
    amount: int, source: str, target: str, rate: str, expected: int
) -> None:
    assert minor_units_between(amount, Currency(source), Currency(target), Decimal(rate)) == expected
