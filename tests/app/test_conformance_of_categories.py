"""The processes of categories in the conformance kit. `make conformance` runs all of it.

Here each example runs one fault of each kind on one database, because only the operations differ.
"""

from collections.abc import Collection

from events.category import BudgetType
from orchestrator import Transaction
from orchestrator.store.connections.url import Dialect
from orchestrator.testing import Example, conformance
from orchestrator.testing.conformance.suite import Group
from starter.seed import COFFEE, drink_coffee, seed
from tests.app.samples import OLENA_EUR, OLENA_JPY, eur, jpy, usd
from tests.app.samples_of_categories import changing, earning, editing, ending, removing, resetting, spending
from tests.app.scenarios import CATALOG
from workflows.account_value_edit import AccountValueEdit
from workflows.activity_record_removal import ActivityRecordRemoval
from workflows.category_reset import CategoryReset
from workflows.category_transaction import CategoryTransaction
from workflows.currency_change import CurrencyChange
from workflows.month_reset import MonthReset


async def books(tx: Transaction) -> None:
    """The demo's accounts, rates and categories, and one purchase of coffee."""
    connection = await tx.connection()
    await seed(connection)
    await drink_coffee(connection)


FAULTS_HERE: Collection[str] = {
    "refused",
    "step loses its reply",
    "second driver, first continues",
    "second driver undoes, first continues",
    "another saga between",
}
EXPENSE, REMOVAL = "an expense in another currency", "a coffee"
DATABASE_OF: dict[str, Dialect] = {
    EXPENSE: "postgresql",
    "less than there was": "sqlite",
    REMOVAL: "postgresql",
    "expenses": "sqlite",
    "to euros": "postgresql",
    "January": "sqlite",
}


def is_trimmed(group: Group) -> bool:
    """Leave out the other examples, which differ from these only in amounts."""
    return group.fault.name not in FAULTS_HERE or DATABASE_OF.get(str(group.example)) != group.database


test_category_transaction = conformance(
    CategoryTransaction,
    Example(spending(), name=EXPENSE, given=books),
    Example(earning(account_id=OLENA_JPY, amount=jpy(5_000)), name="an income", given=books),
    catalog=CATALOG,
    property_examples=10,
    trim=is_trimmed,
)
test_account_value_edit = conformance(
    AccountValueEdit,
    Example(editing(), name="less than there was", given=books, other=editing(account_id=OLENA_EUR, value=eur(1))),
    Example(editing(value=usd(1_000_000_01)), name="more than there was", given=books),
    catalog=CATALOG,
    property_examples=10,
    trim=is_trimmed,
)
test_activity_record_removal = conformance(
    ActivityRecordRemoval,
    Example(removing(COFFEE), name=REMOVAL, given=books, other=removing(COFFEE)),
    catalog=CATALOG,
    property_examples=10,
    trim=is_trimmed,
)
test_category_reset = conformance(
    CategoryReset,
    Example(resetting(), name="expenses", given=books),
    Example(resetting(BudgetType.INCOME), name="incomes", given=books),
    catalog=CATALOG,
    property_examples=10,
    trim=is_trimmed,
)
test_currency_change = conformance(
    CurrencyChange,
    Example(changing("EUR"), name="to euros", given=books, other=changing("USD")),
    catalog=CATALOG,
    property_examples=10,
    trim=is_trimmed,
)
test_month_reset = conformance(
    MonthReset,
    Example(ending(), name="January", given=books),
    catalog=CATALOG,
    property_examples=10,
    trim=is_trimmed,
)
