"""Ownership of data: an operation that one user calls with another user's ids changes and reveals nothing.

The tests walk the catalog, so a new operation must be listed here, either with a call that names another user's row or
as one that names no row at all.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from activities import account, activity_log, category, metadata, snapshot
from activities.activity_log_model import CategoryChange
from activities.snapshot import CategoryOfMonth
from activities.statements import RowGone
from events.category import BudgetType
from events.identity import Identity, UserId
from events.money import Currency, Holding
from events.month import Month
from orchestrator import Refused
from orchestrator.event import Contract
from orchestrator.operation import Operation, OperationCall
from starter.invariants import differences
from starter.seed import COFFEE, drink_coffee
from tests.app.books import Books
from tests.app.samples import EUR, OLENA_EUR, OLENA_JPY, OLENA_USD, USD, eur, jpy, usd
from tests.app.samples_of_categories import GROCERIES, uah
from tests.app.scenarios import CATALOG
from tests.conftest import Kind

TARAS = UserId("taras")
JANUARY = Month("2026-01")
OF_OLENA = CategoryChange(
    record_id=COFFEE,
    occurred_at=datetime(2026, 1, 2, 8, tzinfo=UTC),
    event_id="seed-coffee",
    account_id=OLENA_JPY,
    category_id=GROCERIES,
    budget_type=BudgetType.EXPENSE,
    amount=jpy(450),
    converted=uah(12_293),
    rate=None,
    note="",
    reset_epoch=0,
    currency_epoch=0,
    removing=None,
)

UNDONE_WITH: Mapping[Operation[..., Any], Any] = {
    account.set_balance: {"amount_minor": 5, "currency": "USD"},
    activity_log.claim_removal: OF_OLENA.model_dump(mode="json"),
    activity_log.remove_record: OF_OLENA.model_dump(mode="json"),
    activity_log.record_account_created: str(COFFEE),
    activity_log.record_transfer: str(COFFEE),
    activity_log.record_category_change: str(COFFEE),
    category.add: {"reset_epoch": 0, "currency_epoch": 0},
    category.take_out: {"amount": 1, "was_reset_since": False, "reset_epoch": 0, "currency_epoch": 0},
}
"""The results that their steps would have recorded."""

REACHING: Mapping[Operation[..., Any], tuple[OperationCall[Any], str | None]] = {
    account.prepare: (
        account.prepare(TARAS, OLENA_USD, "Mine", USD, 0, 0, "wallet", "#2f9e44"),
        "account.already_exists",
    ),
    account.open_account: (account.open_account(TARAS, OLENA_USD), "account.not_found"),
    account.currency_of: (account.currency_of(TARAS, OLENA_USD), "account.not_found"),
    account.withdraw: (account.withdraw(TARAS, OLENA_USD, usd(1)), "account.not_found"),
    account.deposit: (account.deposit(TARAS, OLENA_USD, usd(1)), "account.not_found"),
    account.set_balance: (account.set_balance(TARAS, OLENA_USD, usd(1)), "account.not_found"),
    activity_log.claim_removal: (activity_log.claim_removal(TARAS, COFFEE), "activity_log.not_found"),
    activity_log.open_record: (activity_log.open_record(TARAS, COFFEE), "activity_log.not_found"),
    activity_log.remove_record: (activity_log.remove_record(TARAS, COFFEE), "activity_log.not_found"),
    activity_log.record_account_created: (
        activity_log.record_account_created(TARAS, OLENA_USD, usd(1)),
        None,
    ),
    activity_log.record_transfer: (
        activity_log.record_transfer(TARAS, OLENA_USD, OLENA_EUR, usd(1), eur(1), None),
        None,
    ),
    activity_log.record_category_change: (
        activity_log.record_category_change(
            TARAS, OLENA_USD, GROCERIES, BudgetType.EXPENSE, usd(1), uah(41), None, "", 0, 0
        ),
        None,
    ),
    category.details: (category.details(TARAS, GROCERIES), "category.not_found"),
    category.add: (category.add(TARAS, GROCERIES, uah(1), 0), "category.not_found"),
    category.take_out: (category.take_out(TARAS, GROCERIES, uah(1), 0, 0), "category.not_found"),
    snapshot.save_month: (
        snapshot.save_month(
            TARAS,
            JANUARY,
            EUR,
            0,
            (CategoryOfMonth(category_id=GROCERIES, name="", budget_type=BudgetType.EXPENSE, value=1),),
        ),
        None,
    ),
}
"""Operations that name a row: a call with another user's row, and the code of its refusal, the same as for a missing
row. If the code is None, a foreign key rejects the call, because earlier steps of each saga have checked the row."""

OWN: Mapping[Operation[..., Any], OperationCall[Any]] = {
    operation.operation: operation
    for operation in (
        account.holdings(TARAS),
        activity_log.record_reset(TARAS, BudgetType.EXPENSE),
        activity_log.record_currency_change(TARAS, USD, EUR, Decimal("0.92"), 1),
        category.system_category(TARAS, BudgetType.EXPENSE),
        category.reset(TARAS, None),
        category.convert_all(TARAS, Currency("JPY"), EUR, Decimal("0.006")),
        metadata.convert(TARAS, usd(1), EUR),
        metadata.value_in(TARAS, usd(1), EUR),
        metadata.total_in(TARAS, (Holding(amount_minor=1, currency=USD),), EUR),
        metadata.display_currency(TARAS),
        metadata.rate_between(TARAS, USD, EUR),
        metadata.change_display_currency(TARAS, EUR),
        metadata.claim_month(TARAS, JANUARY),
        metadata.count_account(TARAS),
    )
}
"""Operations that name no row and concern only their own user."""


@pytest.fixture
def kind() -> Kind:
    """SQLite only, because the conditions are in the statements."""
    return "sqlite"


@pytest.fixture
async def before(books: Books) -> Any:
    """All rows, including a purchase of coffee by olena."""
    async with books.database.transaction() as connection:
        await drink_coffee(connection)
    return await books.snapshot()


def of_olena(tables: Any) -> dict[str, Any]:
    """Only olena's rows."""
    return {
        table: {key: row for key, row in rows.items() if row.get("user_id") in ("olena", None)}
        for table, rows in tables.items()
    }


def test_every_operation_is_listed_and_its_first_parameter_is_the_user() -> None:
    assert {operation.name for operation in (*REACHING, *OWN)} == CATALOG.operations.keys()
    assert all(next(iter(operation.signature.parameters)) == "user_id" for operation in CATALOG.operations.values())


def test_an_operation_with_an_id_parameter_is_listed_as_naming_a_row() -> None:
    """Otherwise it could be listed as concerning only its own user."""
    with_ids = {
        operation for operation in CATALOG.operations.values() if any(map(names_a_row, parameters_of(operation)))
    }

    assert {operation.name for operation in with_ids} == {operation.name for operation in REACHING}


def parameters_of(operation: Operation[..., Any]) -> list[object]:
    """The types of all parameters except for the user's id, and not of the result."""
    return [hint for name, hint in operation.signature.hints.items() if name not in ("tx", "user_id", "return")]


def names_a_row(hint: object) -> bool:
    """Tell whether a value of this type may contain the id of a row."""
    if isinstance(hint, type) and issubclass(hint, Contract):
        return any(names_a_row(field.annotation) for field in hint.model_fields.values())
    if isinstance(hint, type) and issubclass(hint, (Identity, UUID)):
        return True
    return any(map(names_a_row, get_args(hint)))


@pytest.mark.parametrize(
    "operation",
    [operation for operation in REACHING if operation.undo is not None],
    ids=lambda operation: operation.name,
)
async def test_no_compensation_changes_another_users_row(
    books: Books, before: Any, operation: Operation[..., Any]
) -> None:
    """A compensation with another user's ids finds no row."""
    call, _ = REACHING[operation]

    with pytest.raises((RowGone, Refused, IntegrityError)):
        await books.undo(call, UNDONE_WITH.get(operation))

    assert differences(before, await books.snapshot()) == []


@pytest.mark.parametrize("operation", REACHING, ids=lambda operation: operation.name)
async def test_another_users_row_looks_like_a_missing_one(
    books: Books, before: Any, operation: Operation[..., Any]
) -> None:
    call, code = REACHING[operation]

    with pytest.raises(Refused if code else IntegrityError) as raised:
        await books.run(call)

    if isinstance(raised.value, Refused):
        assert raised.value.code == code
    assert differences(before, await books.snapshot()) == []


@pytest.mark.parametrize("operation", OWN, ids=lambda operation: operation.name)
async def test_an_operation_that_names_no_row_leaves_other_users_alone(
    books: Books, before: Any, operation: Operation[..., Any]
) -> None:
    answer = await books.run(OWN[operation])

    assert differences(of_olena(before), of_olena(await books.snapshot())) == []
    assert "olena" not in repr(answer)
