"""What SmartExpense refuses, who sees an account that is being created, and many concurrent transfers."""

import asyncio
from collections import Counter

import pytest

from activities.account import AccountState
from events.account import MoneyTransferCompleted, MoneyTransferRequested
from events.identity import AccountId, UserId
from orchestrator import SagaFailed
from starter.invariants import Snapshot, differences
from starter.tables import EXCHANGE_RATE
from tests.app.faults import Faults, Gate
from tests.app.running import RunningBooks
from tests.app.samples import NOWHERE, OLENA_EUR, OLENA_JPY, OLENA_USD, TARAS_JPY, a_transfer, an_account, eur, jpy, usd
from tests.app.scenarios import OLENA_CASH
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer

A_MILLION_DOLLARS = 1_000_000_00
NO_SUCH_USER = UserId("nobody")


@pytest.mark.parametrize(
    ("transfer", "code", "undone"),
    [
        pytest.param(a_transfer(amount=usd(A_MILLION_DOLLARS + 1)), "account.insufficient_funds", [], id="too little"),
        pytest.param(a_transfer(from_account_id=NOWHERE), "account.not_found", [], id="no source"),
        pytest.param(a_transfer(to_account_id=NOWHERE), "account.not_found", [], id="no target"),
        pytest.param(
            a_transfer(to_account_id=NOWHERE, arriving=jpy(1_600)),
            "account.not_found",
            ["account.withdraw"],
            id="no target, known only after the withdrawal",
        ),
        pytest.param(
            a_transfer(from_account_id=TARAS_JPY, amount=jpy(5)), "account.not_found", [], id="another's source"
        ),
        pytest.param(a_transfer(to_account_id=TARAS_JPY), "account.not_found", [], id="another's target"),
        pytest.param(
            a_transfer(to_account_id=TARAS_JPY, arriving=jpy(1_600)),
            "account.not_found",
            ["account.withdraw"],
            id="another's target, known only after the withdrawal",
        ),
        pytest.param(a_transfer(user_id=NO_SUCH_USER), "account.not_found", [], id="no such user"),
        pytest.param(a_transfer(to_account_id=OLENA_USD), "account.same_account", [], id="one account"),
        pytest.param(a_transfer(amount=jpy(5)), "account.currency_mismatch", [], id="another currency"),
        pytest.param(
            a_transfer(arriving=jpy(5)), "account.currency_mismatch", ["account.withdraw"], id="arrives in another"
        ),
        pytest.param(
            a_transfer(from_account_id=OLENA_JPY, to_account_id=OLENA_USD, amount=jpy(1), arriving=usd(10**15)),
            "account.balance_limit",
            ["account.withdraw"],
            id="more than an account can hold",
        ),
    ],
)
async def test_a_transfer_that_a_rule_refuses_leaves_nothing(
    running: RunningBooks, transfer: MoneyTransferRequested, code: str, undone: list[str]
) -> None:
    before = await running.snapshot()

    failure = await running.fails(MoneyTransfer, transfer)

    assert failure.error_code == code
    assert [step.operation for step in failure.undone] == undone
    assert differences(before, await running.snapshot()) == []
    assert await running.violations() == []


async def test_another_users_account_gives_the_same_message_as_a_missing_one(running: RunningBooks) -> None:
    of_another = await running.fails(MoneyTransfer, a_transfer(to_account_id=TARAS_JPY))
    missing = await running.fails(MoneyTransfer, a_transfer(to_account_id=NOWHERE))

    assert (of_another.error_code, of_another.undone) == (missing.error_code, missing.undone)
    assert of_another.message.replace(TARAS_JPY, NOWHERE) == missing.message


async def test_without_a_rate_a_transfer_is_refused_unless_it_says_what_arrives(running: RunningBooks) -> None:
    pair = (EXCHANGE_RATE.c.base == "USD", EXCHANGE_RATE.c.quote == "JPY")
    await running.write(EXCHANGE_RATE.delete().where(*pair))
    before = await running.snapshot()

    failure = await running.fails(MoneyTransfer, a_transfer(to_account_id=OLENA_JPY))

    assert failure.error_code == "currency.rate_unknown"
    assert differences(before, await running.snapshot()) == []
    await running.completes(MoneyTransfer, a_transfer(to_account_id=OLENA_JPY, arriving=jpy(1_600)))
    assert await running.violations() == []


async def test_a_used_account_id_is_refused_and_its_account_is_unchanged(running: RunningBooks) -> None:
    before = await running.snapshot()

    of_the_same_user = await running.fails(AccountCreation, an_account(account_id=OLENA_CASH))
    of_another = await running.fails(AccountCreation, an_account(account_id=TARAS_JPY))

    assert of_the_same_user.error_code == of_another.error_code == "account.already_exists"
    assert differences(before, await running.snapshot()) == []


async def test_an_account_that_is_being_created_does_not_exist_for_other_sagas(
    running: RunningBooks, faults: Faults
) -> None:
    """Their attempts do not disturb its creation, and the account exists once it is open."""
    opening, gate = AccountId("olena-opening"), Gate()
    faults.before["account.open_account"] = gate
    [creation] = await running.house.bus.publish(an_account(account_id=opening))
    await gate.reached.wait()
    before = await running.snapshot()
    assert before["account"][opening,]["state"] == AccountState.OPENING

    into = await running.fails(MoneyTransfer, a_transfer(to_account_id=opening, amount=usd(1)))
    known_late = await running.fails(MoneyTransfer, a_transfer(to_account_id=opening, amount=usd(1), arriving=usd(1)))
    out_of = await running.fails(MoneyTransfer, a_transfer(from_account_id=opening, amount=usd(1)))

    assert {into.error_code, known_late.error_code, out_of.error_code} == {"account.not_found"}
    assert differences(before, await running.snapshot()) == []
    gate.opened.set()
    await creation.result()
    await running.completes(MoneyTransfer, a_transfer(to_account_id=opening, amount=usd(1)))
    assert await running.violations() == []


async def test_thirty_concurrent_transfers_neither_lose_nor_create_money(running: RunningBooks) -> None:
    """The transfers go around three accounts; some ask for more than there is, and some go to a missing account."""
    accounts = [AccountId(f"olena-{number}") for number in range(3)]
    for account in accounts:
        await running.completes(AccountCreation, an_account(account_id=account, opening_balance=1_000))
    before = await running.snapshot()
    transfers = [
        a_transfer(
            from_account_id=accounts[number % 3],
            to_account_id=NOWHERE if number % 10 == 9 else accounts[(number + 1) % 3],
            amount=usd(5_000 if number % 10 == 4 else 100 + number),
            arriving=usd(100 + number) if number % 10 == 9 else None,
        )
        for number in range(30)
    ]

    outcomes = await asyncio.gather(
        *(running.completes(MoneyTransfer, transfer) for transfer in transfers), return_exceptions=True
    )

    codes = Counter(outcome.code if isinstance(outcome, SagaFailed) else type(outcome).__name__ for outcome in outcomes)
    assert codes["account.not_found"] == 3
    assert codes["account.insufficient_funds"] >= 3
    assert set(codes) == {"MoneyTransferCompleted", "account.not_found", "account.insufficient_funds"}
    expected: Counter[str] = Counter(dict.fromkeys(accounts, 1000))
    for completed in outcomes:
        if isinstance(completed, MoneyTransferCompleted):
            expected[completed.from_account_id] -= completed.left.amount_minor
            expected[completed.to_account_id] += completed.arrived.amount_minor
    after = await running.snapshot()
    assert {account: after["account"][account,]["balance"] for account in accounts} == dict(expected)
    assert total(after) == total(before)
    assert len(after["activity_record"]) == len(before["activity_record"]) + codes["MoneyTransferCompleted"]
    assert await running.violations() == []
    assert len(await running.house.outbox()) == len(await running.house.sagas()) == 33


def total(snapshot: Snapshot) -> Counter[str]:
    """The sum of all balances, by currency."""
    sums: Counter[str] = Counter()
    for row in snapshot["account"].values():
        sums[row["currency"]] += row["balance"]
    return sums


async def test_concurrent_transfers_in_both_directions_all_end(running: RunningBooks) -> None:
    to_euros = a_transfer(amount=usd(1_050))
    to_dollars = a_transfer(from_account_id=OLENA_EUR, to_account_id=OLENA_USD, amount=eur(2_000))
    before = await running.snapshot()

    await asyncio.gather(*(running.completes(MoneyTransfer, event) for event in [to_euros, to_dollars] * 10))

    after = await running.snapshot()
    assert total(after) - total(before) == Counter({"USD": 10 * (2_174 - 1_050)})
    assert total(before) - total(after) == Counter({"EUR": 10 * (2_000 - 966)})
    assert await running.violations() == []
