"""The demo's scene about categories: it runs six processes on them, then removes the records again."""

from uuid import UUID

from sqlalchemy import select

from events.account import AccountValueEditCompleted, AccountValueEditRequested
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
from orchestrator.protocol.commands import Phase
from starter.demo.run import ACCOUNTS, DemoRun
from starter.tables import ACTIVITY_RECORD, USER_METADATA


async def keep_a_budget(run: DemoRun) -> None:
    """Spend, correct a balance, change the currency, remove both records, and reset the categories and the month."""
    wallet = AccountId("olena-usd")
    user = ACCOUNTS[wallet].user_id
    before = await run.balances()
    held = Money(amount_minor=before[wallet], currency=Currency("USD"))
    groceries = CategoryTransactionRequested.example()
    spent = await run.complete(groceries, "groceries", "$42.15 on groceries", CategoryTransactionCompleted)
    spending = await _record_of(run, run.event_id("groceries"))
    run.show.step(f"olena spent {spent.amount.shown()} on groceries, {spent.converted.shown()} in the category")
    edit = AccountValueEditRequested(user_id=user, account_id=wallet, value=held, note="counted")
    edited = await run.complete(edit, "edit", f"{wallet} holds {held.shown()}", AccountValueEditCompleted)
    correction = await _record_of(run, run.event_id("edit"))
    run.show.step(f"She counted her money: {edited.difference.shown()} more than recorded, logged as an income")
    change = await _change_currency(run, user)
    run.show.step(f"Her categories are in {change.currency} now, were in {change.before}, at {change.rate:.6f}")
    for number, record_id in enumerate((correction, spending), start=1):
        removal = ActivityRecordRemovalRequested(user_id=user, record_id=record_id)
        await run.complete(removal, f"remove-{number}", f"remove record {number}", ActivityRecordRemovalCompleted)
    again = ActivityRecordRemovalRequested(user_id=user, record_id=spending)
    outcome = await run.outcome(await run.publish(again, run.event_id("remove-again"), "remove it again"))
    run.check_outcome(outcome, Phase.FAILED, "activity_log.not_found")
    run.check_unchanged(before, await run.balances())
    run.show.good(
        f"Both records are removed, through the change of currency; a second removal is refused: {outcome.error_code}"
    )
    reset = CategoryResetRequested(user_id=user, budget_type=BudgetType.EXPENSE)
    await run.complete(reset, "reset", "expenses from zero", CategoryResetCompleted)
    month = Month("2026-01")
    month_reset = MonthResetRequested(user_id=user, month=month)
    handle = await run.publish(month_reset, MonthResetRequested.event_id_of(user, month), f"{month} is over")
    run.links["reset"] = handle
    run.check_outcome(await run.outcome(handle), Phase.COMPLETED)
    run.show.step(f"Her expenses begin at zero, and {month} is saved")


async def _change_currency(run: DemoRun, user: UserId) -> CurrencyChangeCompleted:
    """Change the display currency from hryvnias to euros, or back if an earlier run has done that."""
    chosen = select(USER_METADATA.c.display_currency).where(USER_METADATA.c.user_id == user)
    async with run.database.reading() as connection:
        currency = Currency("EUR" if await connection.scalar(chosen) == "UAH" else "UAH")
    event = CurrencyChangeRequested(user_id=user, currency=currency)
    return await run.complete(event, "currency", f"categories in {currency}", CurrencyChangeCompleted)


async def _record_of(run: DemoRun, event_id: str) -> UUID:
    async with run.database.reading() as connection:
        record_id: UUID = (
            await connection.execute(select(ACTIVITY_RECORD.c.id).where(ACTIVITY_RECORD.c.event_id == event_id))
        ).scalar_one()
    return record_id
