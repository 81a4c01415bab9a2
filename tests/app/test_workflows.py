"""The two processes around accounts: which steps they run in which order, and that a refusal leaves nothing behind."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities import account, activity_log, metadata
from activities.metadata import Converted
from events.account import (
    AccountCreated,
    AccountCreationCompleted,
    MoneyTransferCompleted,
    MoneyTransferRequested,
)
from events.identity import AccountId
from events.money import Money
from orchestrator import Refused
from orchestrator.operation import Operation
from orchestrator.testing import RecordingSaga
from starter.invariants import differences
from starter.seed import DEMO_ACCOUNTS
from tests.app.books import Books, new_books
from tests.app.samples import (
    EUR,
    JPY,
    NOWHERE,
    OLENA,
    OLENA_EUR,
    OLENA_JPY,
    OLENA_USD,
    TARAS_JPY,
    USD,
    a_transfer,
    an_account,
    eur,
    jpy,
    usd,
)
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer

RECORD = UUID("00000000-0000-4000-8000-000000000001")
RATE = Decimal("0.92")

CREATION_ANSWERS: dict[Operation[..., Any], Any] = {activity_log.record_account_created: RECORD}
TRANSFER_ANSWERS: dict[Operation[..., Any], Any] = {
    account.currency_of: EUR,
    metadata.convert: Converted(amount=eur(966), rate=RATE),
    activity_log.record_transfer: RECORD,
}


def names_of(saga: RecordingSaga) -> list[str]:
    """The names of the called operations, in order."""
    return [call.operation.name for call in saga.calls]


class TestAccountCreationsSteps:
    """The calls of `AccountCreation.handle` and its result."""

    async def test_an_account_is_prepared_logged_counted_and_opened_last(self) -> None:
        event = an_account(opening_balance=-500, overdraft_limit=700)
        saga = RecordingSaga(CREATION_ANSWERS)

        completed = await AccountCreation().handle(event, saga)

        assert completed == AccountCreationCompleted(user_id=OLENA, account_id=event.account_id)
        assert saga.calls == [
            account.prepare(OLENA, event.account_id, "Holiday", USD, -500, 700, "palm-tree", "#f08c00"),
            activity_log.record_account_created(OLENA, event.account_id, usd(-500)),
            metadata.count_account(OLENA),
            account.open_account(OLENA, event.account_id),
        ]

    @pytest.mark.parametrize("steps", range(1, 5))
    async def test_a_refusal_is_raised_and_no_call_follows_it(self, steps: int) -> None:
        order: list[Operation[..., Any]] = [
            account.prepare,
            activity_log.record_account_created,
            metadata.count_account,
            account.open_account,
        ]
        saga = RecordingSaga({**CREATION_ANSWERS, order[steps - 1]: Refused("test.refused", "no")})

        with pytest.raises(Refused, match=r"test\.refused"):
            await AccountCreation().handle(an_account(), saga)

        assert len(saga.calls) == steps


class TestMoneyTransfersSteps:
    """The calls of `MoneyTransfer.handle` and its result."""

    async def test_money_is_converted_withdrawn_deposited_and_logged(self) -> None:
        saga = RecordingSaga(TRANSFER_ANSWERS)

        completed = await MoneyTransfer().handle(a_transfer(), saga)

        assert completed == MoneyTransferCompleted(
            user_id=OLENA,
            from_account_id=OLENA_USD,
            to_account_id=OLENA_EUR,
            left=usd(1_050),
            arrived=eur(966),
            rate=RATE,
        )
        assert saga.calls == [
            account.currency_of(OLENA, OLENA_EUR),
            metadata.convert(OLENA, usd(1_050), EUR),
            account.withdraw(OLENA, OLENA_USD, usd(1_050)),
            account.deposit(OLENA, OLENA_EUR, eur(966)),
            activity_log.record_transfer(OLENA, OLENA_USD, OLENA_EUR, usd(1_050), eur(966), RATE),
        ]

    async def test_a_transfer_that_says_what_arrives_needs_no_rate(self) -> None:
        saga = RecordingSaga(TRANSFER_ANSWERS)

        completed = await MoneyTransfer().handle(a_transfer(arriving=eur(900)), saga)

        assert (completed.arrived, completed.rate) == (eur(900), None)
        assert saga.calls == [
            account.withdraw(OLENA, OLENA_USD, usd(1_050)),
            account.deposit(OLENA, OLENA_EUR, eur(900)),
            activity_log.record_transfer(OLENA, OLENA_USD, OLENA_EUR, usd(1_050), eur(900), None),
        ]

    async def test_a_transfer_to_the_same_account_is_refused(self) -> None:
        saga = RecordingSaga()

        with pytest.raises(Refused) as refused:
            await MoneyTransfer().handle(a_transfer(to_account_id=OLENA_USD), saga)

        assert refused.value.code == "account.same_account"
        assert saga.calls == []

    @pytest.mark.parametrize(
        ("refusing", "reached"),
        [
            (account.currency_of, ["account.currency_of"]),
            (metadata.convert, ["account.currency_of", "metadata.convert"]),
            (account.withdraw, ["account.currency_of", "metadata.convert", "account.withdraw"]),
            (
                account.deposit,
                ["account.currency_of", "metadata.convert", "account.withdraw", "account.deposit"],
            ),
        ],
        ids=["currency_of", "convert", "withdraw", "deposit"],
    )
    async def test_a_refusal_is_raised_and_no_call_follows_it(
        self, refusing: Operation[..., Any], reached: list[str]
    ) -> None:
        saga = RecordingSaga({**TRANSFER_ANSWERS, refusing: Refused("test.refused", "no")})

        with pytest.raises(Refused, match=r"test\.refused"):
            await MoneyTransfer().handle(a_transfer(), saga)

        assert names_of(saga) == reached


class TestOnADatabase:
    """Both processes on SQLite, one transaction per step."""

    async def test_each_example_completes_on_the_demos_data(self, books: Books) -> None:
        created = await books.handle(AccountCreation, AccountCreated.example())
        moved = await books.handle(MoneyTransfer, MoneyTransferRequested.example())

        assert (await books.row("account", created.account_id))["state"] == "open"
        assert (moved.left, moved.arrived, moved.rate) == (usd(1_050), eur(966), RATE)
        assert await books.violations() == []

    async def test_creating_the_demos_accounts_leaves_what_the_seed_writes(self) -> None:
        async with new_books() as seeded, new_books(accounts=False) as empty:
            for event in DEMO_ACCOUNTS:
                await empty.handle(AccountCreation, event)

            assert await empty.violations() == []
            lines = differences(await seeded.snapshot(), await empty.snapshot())
            # A record's id and event, and the time, differ between the two.
            assert [line for line in lines if "opened_at" not in line and not line.startswith("activity_record")] == []

    @pytest.mark.parametrize("target", [OLENA_EUR, OLENA_JPY])
    async def test_a_transfers_record_explains_both_balances(self, books: Books, target: AccountId) -> None:
        await books.handle(MoneyTransfer, a_transfer(to_account_id=target))

        assert await books.violations() == []

    async def test_a_transfer_in_one_currency_changes_no_sum(self, books: Books) -> None:
        second = an_account(account_id=AccountId("olena-usd-2"))
        await books.handle(AccountCreation, second)
        transfer = a_transfer(to_account_id=second.account_id, amount=usd(12_345))

        completed = await books.handle(MoneyTransfer, transfer)

        assert (completed.arrived, completed.rate) == (usd(12_345), None)
        assert (await books.row("account", OLENA_USD))["balance"] == 1_000_000_00 - 12_345
        assert (await books.row("account", second.account_id))["balance"] == 25_000 + 12_345
        assert await books.violations() == []

    @pytest.mark.parametrize(
        ("transfer", "code"),
        [
            (a_transfer(to_account_id=OLENA_USD), "account.same_account"),
            (a_transfer(to_account_id=NOWHERE), "account.not_found"),
            (a_transfer(to_account_id=TARAS_JPY), "account.not_found"),
            (a_transfer(from_account_id=NOWHERE), "account.not_found"),
            (a_transfer(from_account_id=TARAS_JPY), "account.not_found"),
            (a_transfer(to_account_id=TARAS_JPY, arriving=jpy(1)), "account.not_found"),
            (a_transfer(amount=jpy(1_000)), "account.currency_mismatch"),
            (a_transfer(arriving=jpy(1)), "account.currency_mismatch"),
            (a_transfer(amount=usd(1_000_000_01)), "account.insufficient_funds"),
            (a_transfer(amount=usd(100), arriving=eur(10**15)), "account.balance_limit"),
            (a_transfer(amount=usd(10**15), to_account_id=OLENA_JPY), "currency.amount_too_large"),
            (
                a_transfer(from_account_id=OLENA_JPY, amount=Money(amount_minor=1, currency=USD)),
                "account.currency_mismatch",
            ),
        ],
    )
    async def test_a_refused_transfer_leaves_every_row_as_it_was(
        self, books: Books, transfer: MoneyTransferRequested, code: str
    ) -> None:
        before = await books.snapshot()

        with pytest.raises(Refused) as refused:
            await books.handle(MoneyTransfer, transfer)

        assert refused.value.code == code
        assert differences(before, await books.snapshot()) == []

    @pytest.mark.parametrize("used", [OLENA_USD, TARAS_JPY])
    async def test_a_refused_account_leaves_every_row_as_it_was(self, books: Books, used: AccountId) -> None:
        before = await books.snapshot()

        with pytest.raises(Refused) as refused:
            await books.handle(AccountCreation, an_account(account_id=used))

        assert refused.value.code == "account.already_exists"
        assert differences(before, await books.snapshot()) == []

    async def test_many_concurrent_processes_leave_the_books_balanced(self, books: Books) -> None:
        drained = a_transfer(amount=usd(400_000_00))
        to_euros, to_dollars = (
            a_transfer(),
            a_transfer(from_account_id=OLENA_EUR, to_account_id=OLENA_USD, amount=eur(7)),
        )
        half_refused = a_transfer(amount=usd(1), arriving=jpy(1))
        same_id = an_account(account_id=AccountId("olena-wanted"))

        results = await asyncio.gather(
            *(books.handle(MoneyTransfer, event) for event in [drained, to_euros, to_dollars, half_refused] * 4),
            *(books.handle(AccountCreation, event) for event in [same_id, same_id, an_account()]),
            return_exceptions=True,
        )

        refused = sorted(result.code for result in results if isinstance(result, Refused))
        assert refused == [
            "account.already_exists",
            *["account.currency_mismatch"] * 4,
            *["account.insufficient_funds"] * 2,
        ]
        assert [
            result for result in results if isinstance(result, BaseException) and not isinstance(result, Refused)
        ] == []
        assert await books.violations() == []


ACCOUNTS = st.sampled_from([(OLENA_USD, USD), (OLENA_EUR, EUR), (OLENA_JPY, JPY), (TARAS_JPY, JPY), (NOWHERE, USD)])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(ACCOUNTS, ACCOUNTS, st.integers(1, 2_000_000_00)), min_size=1, max_size=6))
async def test_after_random_transfers_the_books_balance_and_a_refusal_changes_nothing(requests: list[Any]) -> None:
    async with new_books() as books:
        for (source, currency), (target, _), amount in requests:
            transfer = a_transfer(
                from_account_id=source,
                to_account_id=target,
                amount=Money(amount_minor=amount, currency=currency),
            )
            before = await books.snapshot()
            try:
                await books.handle(MoneyTransfer, transfer)
            except Refused:
                assert differences(before, await books.snapshot()) == []

            assert await books.violations() == []
