"""The demo's story: accounts, transfers, a refusal, an undoing, a repeat, and a worker killed in the middle of a saga.

Everything it runs is the real thing: a server, workers as processes of their own, kill -9. It can be run any number of
times on the same state: accounts are opened by events with fixed ids, so a second run only repeats them, and transfers
go to and fro.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, select

from activities.activity_log_model import RecordKind
from events.account import (
    AccountCreated,
    AccountValueEditCompleted,
    AccountValueEditRequested,
    MoneyTransferCompleted,
    MoneyTransferRequested,
)
from events.activity_log import ActivityRecordRemovalCompleted, ActivityRecordRemovalRequested
from events.category import (
    BudgetType,
    CategoryResetCompleted,
    CategoryResetRequested,
    CategoryTransactionCompleted,
    CategoryTransactionRequested,
)
from events.identity import AccountId, UserId
from events.metadata import CurrencyChangeCompleted, CurrencyChangeRequested
from events.money import Currency, Money
from events.month import Month
from events.snapshot import MonthResetRequested
from orchestrator.client import EventBus, SagaHandle
from orchestrator.devserver.child import Child
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Outcome, Phase, StepState
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import SagaView, counts, sagas_of_event
from starter.invariants import violations
from starter.process import GaveUp
from starter.seed import DEMO_ACCOUNTS, EXCHANGE_RATES, seed
from starter.stack import Stack
from starter.survival import Standing, awaited, standing, wait_for_money_on_its_way
from starter.tables import ACCOUNT, ACTIVITY_RECORD, USER_METADATA

Completed = TypeVar("Completed", bound=DomainEvent)

_PATIENCE = timedelta(seconds=40)
"""Longer than any saga here takes, the one whose worker dies included."""
_AT_ONCE = 12
"""Transfers under way when the worker is killed."""
_STUNTS = 4
"""If by chance every saga was finished when the kill came, the stunt is done again."""

_ACCOUNTS = {account.account_id: account for account in DEMO_ACCOUNTS}
_AMOUNTS = {
    AccountId("olena-usd"): 120_00,
    AccountId("olena-eur"): 110_40,
    AccountId("olena-jpy"): 18_164,
    AccountId("taras-jpy"): 18_164,
    AccountId("taras-kwd"): 36_900,
}
"""About the same worth each, so that going to and fro leaves everybody about as rich."""


@dataclass(frozen=True, slots=True)
class Told:
    """A saga of this run, as the table shows it."""

    event_id: str
    what: str
    is_of_the_crowd: bool = False
    """Published with many others at once."""


class Story:
    """One run of it, on a stack with a worker."""

    def __init__(self, stack: Stack, bus: EventBus, database: Database, worker: Child) -> None:
        self.stack = stack
        self.show = stack.show
        self.bus = bus
        self.database = database
        self.worker = worker
        self.run = secrets.token_hex(2)
        self.told: list[Told] = []
        self.links: dict[str, SagaHandle[Any]] = {}
        self.before: Mapping[str, int] = {}

    async def play(self) -> None:
        """The whole story, from the first account to the invariants.

        Raises:
            GaveUp: something did not turn out as promised.
        """
        async with self.database.transaction() as connection:
            await seed(connection, accounts=False)
        self.show.step(f"{len(EXCHANGE_RATES)} exchange rates are in the database")
        await self.open_accounts()
        self.before = await self.balances()
        await self.transfer_money()
        await self.be_refused()
        await self.be_undone()
        await self.publish_twice()
        await self.keep_a_budget()
        await self.survive()
        await self.conclude()

    async def open_accounts(self) -> None:
        """Four currencies, two users. The events' ids are fixed: a second run repeats them."""
        there = await self.balances()
        for account in DEMO_ACCOUNTS:
            event_id = f"demo-open-{account.account_id}"
            outcome = await self._outcome(await self._publish(account, event_id, f"open {account.account_id}"))
            self._must_be(outcome, Phase.COMPLETED)
            money = Money(amount_minor=account.opening_balance, currency=account.currency)
            if account.account_id in there:
                self.show.step(f"{account.account_id} is open since an earlier run; the same event again did nothing")
            else:
                self.show.step(f"{account.user_id} opened {account.account_id} ({account.name}) with {money.shown()}")

    async def transfer_money(self) -> None:
        """Between currencies of no, two and three digits after the point."""
        for one, other in (("olena-usd", "olena-eur"), ("olena-jpy", "olena-usd"), ("taras-kwd", "taras-jpy")):
            event = await self._transfer(one, other)
            began = monotonic()
            event_id = self._id(f"{_currency(event.from_account_id)}-{_currency(event.to_account_id)}")
            handle = await self._publish(event, event_id, _moves(event))
            completed: MoneyTransferCompleted = await handle.result(timeout=_PATIENCE)
            self.links.setdefault("completed", handle)
            self.show.step(
                f"{event.user_id} moved {event.amount.shown()} from {event.from_account_id} to {event.to_account_id}, "
                f"where {completed.arrived.shown()} arrived ({(monotonic() - began) * 1000:.0f} ms)"
            )

    async def be_refused(self) -> None:
        """More than there is."""
        before = await self.balances()
        source = _ACCOUNTS[AccountId("taras-kwd")]
        amount = Money(amount_minor=9_999_999_999, currency=source.currency)
        event = MoneyTransferRequested(
            user_id=source.user_id,
            from_account_id=source.account_id,
            to_account_id=AccountId("taras-jpy"),
            amount=amount,
        )
        handle = await self._publish(event, self._id("too-much"), _moves(event))
        outcome = await self._outcome(handle)
        self._must_be(outcome, Phase.FAILED, "account.insufficient_funds")
        self._must_be_unmoved(before, await self.balances())
        self.show.good(
            f"taras asked to move {amount.shown()}: refused, {outcome.error_code}. The saga is undone, no money moved"
        )

    async def be_undone(self) -> None:
        """The refusal comes when money has left already: it is put back."""
        before = await self.balances()
        source, target = _ACCOUNTS[AccountId("olena-usd")], _ACCOUNTS[AccountId("olena-eur")]
        amount = Money(amount_minor=500_00, currency=source.currency)
        event = MoneyTransferRequested(
            user_id=source.user_id,
            from_account_id=source.account_id,
            to_account_id=target.account_id,
            amount=amount,
            arriving=Money(amount_minor=75_685, currency=Currency("JPY")),
        )
        handle = await self._publish(event, self._id("undone"), f"{_moves(event)}, as yen")
        outcome = await self._outcome(handle)
        self._must_be(outcome, Phase.FAILED, "account.currency_mismatch")
        self._must_be_unmoved(before, await self.balances())
        self.links["undone"] = handle
        steps = (await self._saga(handle.event_id)).steps
        put_back = [step for step in steps if step.state is StepState.UNDONE]
        if [step.operation for step in put_back] != ["account.withdraw"]:
            raise GaveUp(f"The withdrawal of {handle.event_id} should have been undone, and was not.")
        self.show.good(
            f"olena sent yen to a euro account: {amount.shown()} had left olena-usd (step {put_back[0].number}) when "
            f"the deposit was refused, {outcome.error_code}. Undone: put back"
        )

    async def publish_twice(self) -> None:
        """One event, two times: one saga."""
        event = await self._transfer("olena-eur", "olena-usd")
        event_id = self._id("twice")
        first = await self._publish(event, event_id, f"{_moves(event)}, twice")
        (second,) = await self.bus.publish(event, event_id=event_id)
        outcomes = [await self._outcome(first), await self._outcome(second)]
        records = await self._records([event_id])
        if outcomes[0] != outcomes[1] or records != 1:
            raise GaveUp(f"Event {event_id} was published twice and left {records} records; it must leave one.")
        self.show.good(
            f"One event published twice ({event_id}): one saga, one outcome, {event.amount.shown()} moved once"
        )

    async def keep_a_budget(self) -> None:
        """The six processes around categories, and one of them refused. What is spent is taken back."""
        user, wallet = _ACCOUNTS[AccountId("olena-usd")].user_id, AccountId("olena-usd")
        before = await self.balances()
        held = Money(amount_minor=before[wallet], currency=Currency("USD"))
        groceries = CategoryTransactionRequested.example()
        spent = await self._completed(groceries, "groceries", "$42.15 on groceries", CategoryTransactionCompleted)
        record = await self._record_of(self._id("groceries"))
        self.show.step(f"olena spent {spent.amount.shown()} on groceries, {spent.converted.shown()} in the category")
        edit = AccountValueEditRequested(user_id=user, account_id=wallet, value=held, note="counted")
        edited = await self._completed(edit, "edit", f"{wallet} holds {held.shown()}", AccountValueEditCompleted)
        counted = await self._record_of(self._id("edit"))
        self.show.step(f"She counted her money: {edited.difference.shown()} more than was known, logged as found")
        change = await self._change_currency(user)
        self.show.step(f"Her categories are in {change.currency} now, were in {change.before}, at {change.rate:.6f}")
        for number, one in enumerate((counted, record), start=1):
            removal = ActivityRecordRemovalRequested(user_id=user, record_id=one)
            await self._completed(
                removal, f"remove-{number}", f"take record {number} back", ActivityRecordRemovalCompleted
            )
        again = ActivityRecordRemovalRequested(user_id=user, record_id=record)
        outcome = await self._outcome(await self._publish(again, self._id("remove-again"), "take it back again"))
        self._must_be(outcome, Phase.FAILED, "activity_log.not_found")
        self._must_be_unmoved(before, await self.balances())
        self.show.good(
            f"Both are taken back, through the change of currency; once more is refused: {outcome.error_code}"
        )
        reset = CategoryResetRequested(user_id=user, budget_type=BudgetType.EXPENSE)
        await self._completed(reset, "reset", "expenses from zero", CategoryResetCompleted)
        month = Month("2026-01")
        over = MonthResetRequested(user_id=user, month=month)
        ended = await self._publish(over, MonthResetRequested.event_id_of(user, month), f"{month} is over")
        self.links["reset"] = ended
        self._must_be(await self._outcome(ended), Phase.COMPLETED)
        self.show.step(f"Her expenses begin at zero, and {month} is on record")

    async def _change_currency(self, user: UserId) -> CurrencyChangeCompleted:
        """From hryvnias to euros, or back after an earlier run."""
        chosen = select(USER_METADATA.c.display_currency).where(USER_METADATA.c.user_id == user)
        async with self.database.reading() as connection:
            currency = Currency("EUR" if await connection.scalar(chosen) == "UAH" else "UAH")
        event = CurrencyChangeRequested(user_id=user, currency=currency)
        return await self._completed(event, "currency", f"categories in {currency}", CurrencyChangeCompleted)

    async def _completed(self, event: DomainEvent, name: str, what: str, completed: type[Completed]) -> Completed:
        handle = await self._publish(event, self._id(name), what)
        result = await handle.result(timeout=_PATIENCE)
        if not isinstance(result, completed):
            raise GaveUp(f"{handle.event_id} should have ended as {completed.__name__}: {result!r}")
        return result

    async def _record_of(self, event_id: str) -> UUID:
        async with self.database.reading() as connection:
            found: UUID = (
                await connection.execute(select(ACTIVITY_RECORD.c.id).where(ACTIVITY_RECORD.c.event_id == event_id))
            ).scalar_one()
        return found

    async def survive(self) -> None:
        """Kill the worker in the middle of a saga, with SIGKILL, and see the saga finish."""
        for stunt in range(1, _STUNTS + 1):
            handles = await self._transfers_at_once(f"at-once-{stunt}" if stunt > 1 else "at-once")
            ids = list(handles)
            await wait_for_money_on_its_way(self.database, ids, seconds=5)
            await self.worker.kill()
            killed = monotonic()
            if standings := await standing(self.database, ids):
                break
            self.show.step("All of them were finished before the kill came; once more")
            self.worker = await self.stack.start_worker()
            await self._all_completed(handles)
        else:
            raise GaveUp(f"{_STUNTS} times all sagas were finished before the worker could be killed. Try again.")
        await self._watch_survivor(handles, standings, killed)

    async def _transfers_at_once(self, name: str) -> dict[str, SagaHandle[Any]]:
        pairs = (("olena-usd", "olena-eur"), ("taras-kwd", "taras-jpy"), ("olena-jpy", "olena-usd"))
        events = [await self._transfer(*pairs[number % len(pairs)]) for number in range(_AT_ONCE)]
        self.show.step(f"{_AT_ONCE} transfers published at once, to be interrupted ...")
        handles = await asyncio.gather(
            *(
                self._publish(event, self._id(f"{name}-{number:02}"), _moves(event), crowd=True)
                for number, event in enumerate(events, 1)
            )
        )
        return {handle.event_id: handle for handle in handles}

    async def _watch_survivor(
        self, handles: Mapping[str, SagaHandle[Any]], standings: Sequence[Standing], killed: float
    ) -> None:
        survivor = standings[0]
        handle = handles[survivor.event_id]
        self.links["survived"] = handle
        total = len((await self._saga(self.links["completed"].event_id)).steps)
        where = ": the money has left one account and not reached the other" if survivor.money_is_on_its_way else ""
        midway = "1 saga is" if len(standings) == 1 else f"{len(standings)} sagas are"
        self.show.good(f"Worker {self.worker.pid} killed with SIGKILL, {midway} in the middle of it")
        self.show.wait(f"{survivor.event_id} stands after step {len(survivor.done)} of {total}{where}")
        self.show.wait(
            f"Waiting for Temporal to notice: {await awaited(self.bus.client, handle.workflow_id, survivor)}"
        )
        self.worker = await self.stack.start_worker()
        self.show.step(f"Another worker is there (process {self.worker.pid})")
        self._must_be(await self._outcome(handle), Phase.COMPLETED)
        self.show.good(f"{survivor.event_id} has finished, {monotonic() - killed:.1f} s after the kill")
        await self._all_completed(handles)
        records = await self._records(list(handles))
        if records != len(handles):
            raise GaveUp(f"{len(handles)} transfers left {records} records; each must leave one.")
        self.show.good(f"So have the other {len(handles) - 1}: each transfer was done exactly once")

    async def conclude(self) -> None:
        """Tables, links, and whether everything holds."""
        views = {told.event_id: await self._saga(told.event_id) for told in self.told}
        self.show.heading("Sagas")
        self.show.table(
            "event id",
            *(["orchestrator"] if self.show.is_wide else []),
            "what",
            "steps",
            "outcome",
            rows=self._rows(views),
            right=("steps",),
            least=len("account.insufficient_funds"),
        )
        balances = await self.balances()
        self.show.heading("Balances")
        self.show.table(
            "account",
            "user",
            "before",
            "now",
            rows=[
                (name, account.user_id, _shown(account, self.before[name]), _shown(account, balances[name]))
                for name, account in _ACCOUNTS.items()
            ],
            right=("before", "now"),
        )
        await self._check(views)

    async def _check(self, views: Mapping[str, SagaView]) -> None:
        unfinished = await self._wait_until_quiet()
        async with self.database.reading() as connection:
            found = await violations(connection)
        found += [f"saga {event_id} is {view.phase}" for event_id, view in views.items() if not view.phase.is_final]
        if found:
            told = "\n".join(f"  {sentence}" for sentence in found)
            why = f"\nThis may be why: {unfinished} sagas of earlier are not finished." if unfinished else ""
            raise GaveUp(f"Invariants are violated:\n{told}{why}")
        self.show.plain()
        self.show.good("Invariants checked, all hold:")
        for sentence in (
            "every saga has exactly one outcome",
            "every balance is its opening balance plus the signed sum of its records",
            "every transfer took as much as it brought, at its recorded rate; none was done twice",
            "every category has gathered what its records added since its last reset, and every month adds up",
            "every account is open and counted",
        ):
            self.show.plain(f"           {sentence}")

    async def _wait_until_quiet(self) -> int:
        """Wait for sagas that an interrupted run left behind; the number of those that do not end."""

        async def unfinished() -> int:
            found = await counts(self.database)
            return found[Phase.FORWARD] + found[Phase.UNDOING]

        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                while await unfinished():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        return await unfinished()

    async def balances(self) -> dict[str, int]:
        """Of the demo's accounts that are there, in minor units."""
        statement = select(ACCOUNT.c.id, ACCOUNT.c.balance).where(ACCOUNT.c.id.in_(list(_ACCOUNTS)))
        async with self.database.reading() as connection:
            return dict((await connection.execute(statement)).tuples().all())

    async def _transfer(self, one: str, other: str) -> MoneyTransferRequested:
        """A transfer between two accounts, away from the one that has grown."""
        source, target = _ACCOUNTS[AccountId(one)], _ACCOUNTS[AccountId(other)]
        balances = await self.balances()
        if balances[source.account_id] < source.opening_balance:
            source, target = target, source
        return MoneyTransferRequested(
            user_id=source.user_id,
            from_account_id=source.account_id,
            to_account_id=target.account_id,
            amount=Money(amount_minor=_AMOUNTS[source.account_id], currency=source.currency),
        )

    def _id(self, name: str) -> str:
        return f"demo-{self.run}-{name}"

    async def _publish(self, event: DomainEvent, event_id: str, what: str, *, crowd: bool = False) -> SagaHandle[Any]:
        (handle,) = await self.bus.publish(event, event_id=event_id)
        self.told.append(Told(event_id, what, crowd))
        return handle

    async def _outcome(self, handle: SagaHandle[Any]) -> Outcome:
        return await handle.outcome(timeout=_PATIENCE)

    async def _all_completed(self, handles: Mapping[str, SagaHandle[Any]]) -> None:
        for outcome in await asyncio.gather(*(self._outcome(handle) for handle in handles.values())):
            self._must_be(outcome, Phase.COMPLETED)

    async def _saga(self, event_id: str) -> SagaView:
        (view,) = await sagas_of_event(self.database, event_id)
        return view

    async def _records(self, event_ids: Sequence[str]) -> int:
        statement = select(func.count()).where(
            ACTIVITY_RECORD.c.event_id.in_(event_ids), ACTIVITY_RECORD.c.kind == RecordKind.MONEY_TRANSFER
        )
        async with self.database.reading() as connection:
            return int(await connection.scalar(statement) or 0)

    def _rows(self, views: Mapping[str, SagaView]) -> list[tuple[str, ...]]:
        """A row each, but for the crowd around the survivor."""
        crowd = [told for told in self.told if told.is_of_the_crowd and not self._has_survived(told)]
        rows = [self._row(told, views[told.event_id]) for told in self.told if told not in crowd]
        phases = Counter(views[told.event_id].phase for told in crowd)
        ended = ", ".join(f"{count} {phase}" for phase, count in phases.items())
        rows.append((f"{self._id('at-once')}-...", "MoneyTransfer", f"the other {len(crowd)} at once", "", ended))
        return [row if self.show.is_wide else (row[0], *row[2:]) for row in rows]

    def _has_survived(self, told: Told) -> bool:
        return self.links["survived"].event_id == told.event_id

    def _row(self, told: Told, view: SagaView) -> tuple[str, ...]:
        undone = sum(step.state is StepState.UNDONE for step in view.steps)
        outcome = ", ".join(
            filter(
                None,
                (
                    f"{view.phase}: {view.error_code}" if view.error_code else view.phase,
                    f"{undone} undone" if undone else "",
                    "survived kill -9" if self._has_survived(told) else "",
                ),
            )
        )
        return told.event_id, view.orchestrator, told.what, str(len(view.steps)), outcome

    def _must_be(self, outcome: Outcome, phase: Phase, code: str | None = None) -> None:
        if (outcome.phase, outcome.error_code) != (phase, code):
            ended = " ".join(filter(None, (outcome.phase, outcome.error_code, outcome.message)))
            raise GaveUp(f"{outcome.event_id} should have ended as {phase} {code or ''} and ended as {ended}.")

    def _must_be_unmoved(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        if before != after:
            raise GaveUp(f"A saga was undone, and balances are not what they were: {before} before, {after} now.")


def _moves(event: MoneyTransferRequested) -> str:
    return f"{event.amount.shown()}, {event.from_account_id} to {event.to_account_id}"


def _currency(account_id: AccountId) -> str:
    return _ACCOUNTS[account_id].currency.lower()


def _shown(account: AccountCreated, minor_units: int) -> str:
    return Money(amount_minor=minor_units, currency=account.currency).shown()
