"""One run of the demo: what its scenes share, such as publishing an event, reading balances and checking an outcome."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import func, select

from activities.activity_log_model import RecordKind
from events.account import AccountCreated, MoneyTransferRequested
from events.identity import AccountId
from events.money import Money
from orchestrator.cli.embedded.script import GaveUp
from orchestrator.cli.embedded.stack import Stack
from orchestrator.client import EventBus, SagaHandle
from orchestrator.devserver.child import Child
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import SagaView, sagas_of_event
from starter.seed import DEMO_ACCOUNTS
from starter.tables import ACCOUNT, ACTIVITY_RECORD

Completed = TypeVar("Completed", bound=DomainEvent)

ACCOUNTS = {account.account_id: account for account in DEMO_ACCOUNTS}
PATIENCE = timedelta(seconds=40)
"""Longer than any saga of the demo takes, including the ones whose worker is killed."""

_AMOUNTS = {
    AccountId("olena-usd"): 120_00,
    AccountId("olena-eur"): 110_40,
    AccountId("olena-jpy"): 18_164,
    AccountId("taras-jpy"): 18_164,
    AccountId("taras-kwd"): 36_900,
}
"""Amounts of about the same worth, so that transfers in both directions hardly change how rich a user is."""


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event that this run has published, for the table at the end."""

    event_id: str
    description: str
    is_in_crowd: bool = False
    """Whether it was published together with many others. The table shows such events in one row."""


class DemoRun:
    """The state of one run, and what its scenes have in common.

    Args:
        stack: a running server.
        bus: connected to that server.
        database: SmartExpense's.
        worker: a running worker of the stack.
    """

    def __init__(self, stack: Stack, bus: EventBus, database: Database, worker: Child) -> None:
        self.stack = stack
        self.show = stack.show
        self.bus = bus
        self.database = database
        self.worker = worker
        self.published: list[PublishedEvent] = []
        self.links: dict[str, SagaHandle[Any]] = {}
        """The sagas whose page in the Web UI is shown at the end, by the name of the link."""
        self.balances_before: Mapping[str, int] = {}
        self._id = secrets.token_hex(2)

    def event_id(self, name: str) -> str:
        """Return an event id that no other run uses."""
        return f"demo-{self._id}-{name}"

    async def publish(
        self, event: DomainEvent, event_id: str, description: str, *, in_crowd: bool = False
    ) -> SagaHandle[Any]:
        """Publish an event, and list it in the table at the end."""
        (handle,) = await self.bus.publish(event, event_id=event_id)
        self.published.append(PublishedEvent(event_id, description, in_crowd))
        return handle

    async def outcome(self, handle: SagaHandle[Any]) -> Outcome:
        """Wait for a saga's outcome."""
        return await handle.outcome(timeout=PATIENCE)

    async def complete(self, event: DomainEvent, name: str, description: str, completed: type[Completed]) -> Completed:
        """Publish an event and return the event that its saga completes with.

        Raises:
            GaveUp: the saga ended with another event.
        """
        handle = await self.publish(event, self.event_id(name), description)
        result = await handle.result(timeout=PATIENCE)
        if not isinstance(result, completed):
            raise GaveUp(f"{handle.event_id} should have ended as {completed.__name__}: {result!r}")
        return result

    async def transfer(self, first: str, second: str) -> MoneyTransferRequested:
        """Create a transfer between two accounts, out of the one that holds more than when it was opened."""
        source, target = ACCOUNTS[AccountId(first)], ACCOUNTS[AccountId(second)]
        balances = await self.balances()
        if balances[source.account_id] < source.opening_balance:
            source, target = target, source
        return MoneyTransferRequested(
            user_id=source.user_id,
            from_account_id=source.account_id,
            to_account_id=target.account_id,
            amount=Money(amount_minor=_AMOUNTS[source.account_id], currency=source.currency),
        )

    async def balances(self) -> dict[str, int]:
        """Return the balances, in minor units, of those demo accounts that exist."""
        statement = select(ACCOUNT.c.id, ACCOUNT.c.balance).where(ACCOUNT.c.id.in_(list(ACCOUNTS)))
        async with self.database.reading() as connection:
            return dict((await connection.execute(statement)).tuples().all())

    async def saga(self, event_id: str) -> SagaView:
        """Return the only saga of an event, as its rows describe it."""
        (view,) = await sagas_of_event(self.database, event_id)
        return view

    async def transfer_records(self, event_ids: Sequence[str]) -> int:
        """Count the records that these events' transfers have left in the activity log."""
        statement = select(func.count()).where(
            ACTIVITY_RECORD.c.event_id.in_(event_ids), ACTIVITY_RECORD.c.kind == RecordKind.MONEY_TRANSFER
        )
        async with self.database.reading() as connection:
            return int(await connection.scalar(statement) or 0)

    async def check_all_completed(self, handles: Mapping[str, SagaHandle[Any]]) -> None:
        """Wait until all these sagas have ended, and check that each completed."""
        for outcome in await asyncio.gather(*(self.outcome(handle) for handle in handles.values())):
            self.check_outcome(outcome, Phase.COMPLETED)

    def check_outcome(self, outcome: Outcome, phase: Phase, code: str | None = None) -> None:
        """Check how a saga ended.

        Raises:
            GaveUp: it ended in another phase or with another error code.
        """
        if (outcome.phase, outcome.error_code) != (phase, code):
            ended = " ".join(filter(None, (outcome.phase, outcome.error_code, outcome.message)))
            raise GaveUp(f"{outcome.event_id} should have ended as {phase} {code or ''} and ended as {ended}.")

    def check_unchanged(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Check that a saga which was undone has changed no balance.

        Raises:
            GaveUp: a balance has changed.
        """
        if before != after:
            raise GaveUp(f"A saga was undone, but the balances have changed: {before} before, {after} now.")


def describe_transfer(event: MoneyTransferRequested) -> str:
    """Return a transfer's amount and accounts in words."""
    return f"{event.amount.shown()}, {event.from_account_id} to {event.to_account_id}"


def format_balance(account: AccountCreated, minor_units: int) -> str:
    """Return a balance with the account's currency."""
    return Money(amount_minor=minor_units, currency=account.currency).shown()
