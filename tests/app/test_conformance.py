"""SmartExpense's orchestrators through the conformance kit: every fault at every step. In full: `make conformance`.

Here each fault is at every step of one example of each orchestrator, each on one of the databases; where two drivers or
others meet, on both, as each database has locks of its own.
"""

from collections.abc import Mapping

from events.account import AccountCreated
from events.identity import AccountId
from orchestrator import Transaction
from orchestrator.store.connections.url import Dialect
from orchestrator.testing import Equality, Example, conformance
from orchestrator.testing.conformance.runners import FAULTS
from orchestrator.testing.conformance.suite import Group
from starter.seed import open_account, seed
from tests.app.scenarios import CASH, CATALOG, DOLLARS_TO_EUROS, FIRST_ACCOUNT, SCENARIOS, Scenario
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer


async def books(tx: Transaction) -> None:
    """The demo's accounts and rates, and one account more."""
    connection = await tx.connection()
    await seed(connection)
    await open_account(connection, CASH)


PLAYED_ON: Mapping[str, Dialect] = {FIRST_ACCOUNT.name: "postgresql", DOLLARS_TO_EUROS.name: "sqlite"}
MEETINGS = [name for name in FAULTS if name.startswith(("second driver", "others between", "terminated"))]


def is_trimmed(group: Group) -> bool:
    """The other examples differ from these in amounts alone."""
    if group.fault.name in MEETINGS:
        return str(group.example) not in PLAYED_ON
    return PLAYED_ON.get(str(group.example)) != group.database


def an_example(scenario: Scenario) -> Example:
    """Somebody else creates another account of the same user, or asks for the same transfer again."""
    event = scenario.event
    other = event
    if isinstance(event, AccountCreated):
        other = event.model_copy(update={"account_id": AccountId("another-one")})
    return Example(event, name=scenario.name, given=books, other=other)


CREATIONS, TRANSFERS = (
    [an_example(scenario) for scenario in SCENARIOS if scenario.orchestrator is orchestrator]
    for orchestrator in (AccountCreation, MoneyTransfer)
)
# An account that is created between do and undo keeps the place in the user's list that it drew.
PLACES = Equality(ignore_columns={"account": {"position"}})

test_account_creation = conformance(
    AccountCreation, *CREATIONS, catalog=CATALOG, equality=PLACES, property_examples=10, trim=is_trimmed
)
test_money_transfer = conformance(MoneyTransfer, *TRANSFERS, catalog=CATALOG, property_examples=10, trim=is_trimmed)
