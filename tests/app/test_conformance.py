"""SmartExpense's orchestrators in the conformance kit: every fault at every step. `make conformance` runs all of it.

Here each fault hits every step of one example per orchestrator, on one of the databases.
"""

from collections.abc import Mapping

from events.account import AccountCreated
from events.identity import AccountId
from orchestrator import Transaction
from orchestrator.store.connections.url import Dialect
from orchestrator.testing import Equality, Example, conformance
from orchestrator.testing.conformance.suite import Group
from starter.seed import open_account, seed
from tests.app.scenarios import CASH, CATALOG, DOLLARS_TO_EUROS, FIRST_ACCOUNT, SCENARIOS, Scenario
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer


async def books(tx: Transaction) -> None:
    """The demo's accounts and rates, and one more account."""
    connection = await tx.connection()
    await seed(connection)
    await open_account(connection, CASH)


DATABASE_OF: Mapping[str, Dialect] = {FIRST_ACCOUNT.name: "sqlite", DOLLARS_TO_EUROS.name: "postgresql"}


def is_trimmed(group: Group) -> bool:
    """Leave out the other examples, which differ from these only in amounts, and the other database.

    `tests/store` tries two drivers at every point on both, and `make conformance` runs all of it.
    """
    return DATABASE_OF.get(str(group.example)) != group.database


def an_example(scenario: Scenario) -> Example:
    """An example in which another saga creates a second account of the same user, or makes the same transfer."""
    event = scenario.event
    other = event
    if isinstance(event, AccountCreated):
        other = event.model_copy(update={"account_id": AccountId("another-one")})
    return Example(event, name=scenario.name, given=books, other=other)


CREATIONS, TRANSFERS = (
    [an_example(scenario) for scenario in SCENARIOS if scenario.orchestrator is orchestrator]
    for orchestrator in (AccountCreation, MoneyTransfer)
)
# An account that is created between do and undo keeps its position in the user's list.
POSITIONS = Equality(ignore_columns={"account": {"position"}})

test_account_creation = conformance(
    AccountCreation, *CREATIONS, catalog=CATALOG, equality=POSITIONS, property_examples=10, trim=is_trimmed
)
test_money_transfer = conformance(MoneyTransfer, *TRANSFERS, catalog=CATALOG, property_examples=10, trim=is_trimmed)
