"""The demo's scenes in their order: accounts, transfers, a refusal, an undo, a repeated event, and a killed worker.

Everything in it is real: the server, the workers in their own processes, SIGKILL. The demo can run any number of times
on the same state. Accounts are opened by events with fixed ids, so that a second run only repeats these events, and
transfers go in both directions.
"""

from time import monotonic

from events.account import MoneyTransferCompleted, MoneyTransferRequested
from events.identity import AccountId
from events.money import Currency, Money
from orchestrator.cli.embedded.script import GaveUp
from orchestrator.protocol.commands import Phase, StepState
from starter.demo.budget import keep_a_budget
from starter.demo.conclusion import conclude
from starter.demo.killed_worker import survive_a_kill
from starter.demo.run import ACCOUNTS, PATIENCE, DemoRun, describe_transfer
from starter.seed import DEMO_ACCOUNTS, EXCHANGE_RATES, seed


async def play(run: DemoRun) -> None:
    """Run every scene, from the first account to the check of the invariants.

    Raises:
        GaveUp: something did not turn out as promised.
    """
    async with run.database.transaction() as connection:
        await seed(connection, accounts=False)
    run.show.step(f"{len(EXCHANGE_RATES)} exchange rates are in the database")
    await _open_accounts(run)
    run.balances_before = await run.balances()
    await _transfer_money(run)
    await _be_refused(run)
    await _be_undone(run)
    await _publish_twice(run)
    await keep_a_budget(run)
    await survive_a_kill(run)
    await conclude(run)


async def _open_accounts(run: DemoRun) -> None:
    """Open the accounts of two users in four currencies. A second run repeats the same events with the same ids."""
    balances = await run.balances()
    for account in DEMO_ACCOUNTS:
        event_id = f"demo-open-{account.account_id}"
        outcome = await run.outcome(await run.publish(account, event_id, f"open {account.account_id}"))
        run.check_outcome(outcome, Phase.COMPLETED)
        money = Money(amount_minor=account.opening_balance, currency=account.currency)
        if account.account_id in balances:
            run.show.step(f"{account.account_id} is open since an earlier run; the same event again did nothing")
        else:
            run.show.step(f"{account.user_id} opened {account.account_id} ({account.name}) with {money.shown()}")


async def _transfer_money(run: DemoRun) -> None:
    """Transfer money between currencies with no, two and three decimal places."""
    for first, second in (("olena-usd", "olena-eur"), ("olena-jpy", "olena-usd"), ("taras-kwd", "taras-jpy")):
        event = await run.transfer(first, second)
        began = monotonic()
        event_id = run.event_id(f"{_currency(event.from_account_id)}-{_currency(event.to_account_id)}")
        handle = await run.publish(event, event_id, describe_transfer(event))
        completed: MoneyTransferCompleted = await handle.result(timeout=PATIENCE)
        run.links.setdefault("completed", handle)
        run.show.step(
            f"{event.user_id} moved {event.amount.shown()} from {event.from_account_id} to {event.to_account_id}, "
            f"where {completed.arrived.shown()} arrived ({(monotonic() - began) * 1000:.0f} ms)"
        )


async def _be_refused(run: DemoRun) -> None:
    """Try to transfer more than the account holds."""
    before = await run.balances()
    source = ACCOUNTS[AccountId("taras-kwd")]
    amount = Money(amount_minor=9_999_999_999, currency=source.currency)
    event = MoneyTransferRequested(
        user_id=source.user_id,
        from_account_id=source.account_id,
        to_account_id=AccountId("taras-jpy"),
        amount=amount,
    )
    handle = await run.publish(event, run.event_id("too-much"), describe_transfer(event))
    outcome = await run.outcome(handle)
    run.check_outcome(outcome, Phase.FAILED, "account.insufficient_funds")
    run.check_unchanged(before, await run.balances())
    run.show.good(
        f"taras asked to move {amount.shown()}: refused, {outcome.error_code}. The saga is undone, no money moved"
    )


async def _be_undone(run: DemoRun) -> None:
    """Transfer money that the target refuses after it has been withdrawn, so that the withdrawal is undone."""
    before = await run.balances()
    source, target = ACCOUNTS[AccountId("olena-usd")], ACCOUNTS[AccountId("olena-eur")]
    amount = Money(amount_minor=500_00, currency=source.currency)
    event = MoneyTransferRequested(
        user_id=source.user_id,
        from_account_id=source.account_id,
        to_account_id=target.account_id,
        amount=amount,
        arriving=Money(amount_minor=75_685, currency=Currency("JPY")),
    )
    handle = await run.publish(event, run.event_id("undone"), f"{describe_transfer(event)}, as yen")
    outcome = await run.outcome(handle)
    run.check_outcome(outcome, Phase.FAILED, "account.currency_mismatch")
    run.check_unchanged(before, await run.balances())
    run.links["undone"] = handle
    steps = (await run.saga(handle.event_id)).steps
    undone = [step for step in steps if step.state is StepState.UNDONE]
    if [step.operation for step in undone] != ["account.withdraw"]:
        raise GaveUp(f"The withdrawal of {handle.event_id} should have been undone, and was not.")
    run.show.good(
        f"olena sent yen to a euro account: {amount.shown()} had left olena-usd (step {undone[0].number}) when "
        f"the deposit was refused, {outcome.error_code}. Undone: put back"
    )


async def _publish_twice(run: DemoRun) -> None:
    """Publish one event twice and check that there is only one saga."""
    event = await run.transfer("olena-eur", "olena-usd")
    event_id = run.event_id("twice")
    first = await run.publish(event, event_id, f"{describe_transfer(event)}, twice")
    (second,) = await run.bus.publish(event, event_id=event_id)
    outcomes = [await run.outcome(first), await run.outcome(second)]
    records = await run.transfer_records([event_id])
    if outcomes[0] != outcomes[1] or records != 1:
        raise GaveUp(f"Event {event_id} was published twice and left {records} records; it must leave one.")
    run.show.good(f"One event published twice ({event_id}): one saga, one outcome, {event.amount.shown()} moved once")


def _currency(account_id: AccountId) -> str:
    return ACCOUNTS[account_id].currency.lower()
