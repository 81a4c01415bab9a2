"""SmartExpense's orchestrators through the conformance kit: every fault at every step. In full: `make conformance`."""

from orchestrator import Transaction
from orchestrator.testing import Example, conformance
from orchestrator.testing.suite import Group
from starter.seed import open_account, seed
from tests.app.scenarios import CASH, CATALOG, DOLLARS_TO_EUROS, FIRST_ACCOUNT, SCENARIOS
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer


async def books(tx: Transaction) -> None:
    """The demo's accounts and rates, and one account more."""
    connection = await tx.connection()
    await seed(connection)
    await open_account(connection, CASH)


def is_trimmed(group: Group) -> bool:
    """The others differ from these in amounts alone."""
    return str(group.example) not in (FIRST_ACCOUNT.name, DOLLARS_TO_EUROS.name)


CREATIONS, TRANSFERS = (
    [
        Example(scenario.event, name=scenario.name, given=books)
        for scenario in SCENARIOS
        if scenario.orchestrator is orchestrator
    ]
    for orchestrator in (AccountCreation, MoneyTransfer)
)

test_account_creation = conformance(AccountCreation, *CREATIONS, catalog=CATALOG, trim=is_trimmed)
test_money_transfer = conformance(MoneyTransfer, *TRANSFERS, catalog=CATALOG, trim=is_trimmed)
