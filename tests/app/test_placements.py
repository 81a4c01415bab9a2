"""All eight processes, in their own executions and in partitions, leave the same tables as without a server."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from temporalio.client import Client

from orchestrator import DomainEvent, Refused, SagaFailed
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.store.core.database import Database
from starter.digest import digest
from starter.seed import open_account
from tests.app.books import Books, new_books
from tests.app.running import RunningBooks, open_books
from tests.app.samples import NOWHERE, OLENA_USD, a_transfer, an_account, eur, usd
from tests.app.samples_of_categories import changing, editing, ending, removing, resetting, spending
from tests.app.scenarios import CASH, CATALOG
from workflows.account_creation import AccountCreation
from workflows.account_value_edit import AccountValueEdit
from workflows.activity_record_removal import ActivityRecordRemoval
from workflows.category_reset import CategoryReset
from workflows.category_transaction import CategoryTransaction
from workflows.currency_change import CurrencyChange
from workflows.money_transfer import MoneyTransfer
from workflows.month_reset import MonthReset

MILLION = usd(1_000_000_01)
STORY: Sequence[tuple[AnyOrchestrator, DomainEvent | None, str]] = (
    (AccountCreation, an_account(), "completed"),
    (AccountCreation, an_account(account_id=OLENA_USD), "account.already_exists"),
    (CategoryTransaction, spending(), "completed"),
    (CategoryTransaction, spending(amount=MILLION), "account.insufficient_funds"),
    (MoneyTransfer, a_transfer(), "completed"),
    (MoneyTransfer, a_transfer(to_account_id=NOWHERE, arriving=eur(1)), "account.not_found"),
    (AccountValueEdit, editing(), "completed"),
    (AccountValueEdit, editing(value=usd(-1)), "account.insufficient_funds"),
    (CurrencyChange, changing("EUR"), "completed"),
    (CurrencyChange, changing("GBP"), "currency.rate_unknown"),
    (ActivityRecordRemoval, None, "completed"),
    (ActivityRecordRemoval, removing(UUID(int=1)), "activity_log.not_found"),
    (CategoryReset, resetting(), "completed"),
    (MonthReset, ending(), "completed"),
)
"""Orchestrator, event and expected end; the event None is the removal of the spending's record."""


async def play(books: Books, name: str) -> tuple[list[str], str]:
    """Run the story; return how each event ended, and a digest of the tables."""
    ended: list[str] = []
    for number, (orchestrator, event, _) in enumerate(STORY, start=1):
        event_id = f"{name}-{number}"
        played = event or removing(await record_of(books, f"{name}-3"))
        try:
            if isinstance(books, RunningBooks):
                await books.completes(orchestrator, played, event_id=event_id)
            else:
                await books.handle(orchestrator, played, event_id=event_id)
            ended.append("completed")
        except (Refused, SagaFailed) as refusal:
            ended.append(refusal.code)
    assert await books.violations() == []
    return ended, digest(await books.snapshot())


async def record_of(books: Books, event_id: str) -> UUID:
    """Return the id of an event's record."""
    records = (await books.snapshot())["activity_record"].values()
    [record_id] = [record["id"] for record in records if record["event_id"] == event_id]
    assert isinstance(record_id, UUID)
    return record_id


# Each placement runs once, because all tests share the server and so the ids of its partitions.
@pytest.mark.parametrize(("partitions", "kind"), [(None, "sqlite"), (2, "postgresql")], ids=["own", "partitions"])
async def test_the_eight_processes_leave_the_same_tables_in_either_placement(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch, partitions: int | None
) -> None:
    name = f"story-{partitions}"
    assert {orchestrator for orchestrator, *_ in STORY} == set(CATALOG.orchestrators.values())
    async with new_books() as without_server:
        async with without_server.database.transaction() as connection:
            await open_account(connection, CASH)
        expected = await play(without_server, name)
    assert expected[0] == [ended for *_, ended in STORY]
    for orchestrator in CATALOG.orchestrators.values():
        monkeypatch.setattr(orchestrator, "partitions", partitions)

    async with open_books(client, database) as running:
        assert await play(running, name) == expected
        owners = {saga.owner_workflow_id for saga in await running.house.sagas()}

    assert all(("/partition/" in owner) == (partitions is not None) for owner in owners)
