"""The account domain's operations, each in its own transaction on SQLite."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from activities import account
from activities.statements import RowGone
from events.identity import AccountId, UserId
from events.money import MONEY_LIMIT, Currency, Money
from orchestrator import Refused
from orchestrator.operation import Operation, OperationCall
from starter.invariants import differences
from starter.tables import ACCOUNT
from tests.app.books import EVENT_TIME, Books, new_books
from tests.app.samples import (
    EUR,
    JPY,
    KWD,
    NOWHERE,
    OLENA,
    OLENA_EUR,
    OLENA_JPY,
    OLENA_USD,
    TARAS,
    TARAS_JPY,
    USD,
    eur,
    jpy,
    usd,
)

OPENING = 1_000_000_00
"""The balance of olena-usd in the demo."""
FRESH = AccountId("olena-fresh")


def preparing(
    user: UserId = OLENA, account_id: AccountId = FRESH, currency: Currency = USD, *, overdraft_limit: int = 0
) -> OperationCall[None]:
    """A call that prepares an empty account."""
    return account.prepare(user, account_id, "Fresh", currency, 0, overdraft_limit, "wallet", "#2f9e44")


async def balance_of(books: Books, account_id: AccountId) -> int:
    """Read an account's balance."""
    balance: int = (await books.row("account", account_id))["balance"]
    return balance


async def refusal_of(books: Books, call: OperationCall[Any]) -> Refused:
    """Run a call that must be refused and change nothing; return the refusal."""
    before = await books.snapshot()
    with pytest.raises(Refused) as refused:
        await books.run(call)
    assert differences(before, await books.snapshot()) == []
    return refused.value


async def set_balance(books: Books, account_id: AccountId, balance: int, overdraft_limit: int = 0) -> None:
    """Write a balance directly into the table."""
    row = ACCOUNT.update().where(ACCOUNT.c.id == account_id)
    await books.write(row.values(balance=balance, overdraft_limit=overdraft_limit))


class TestPrepare:
    """Preparing an account."""

    async def test_a_prepared_account_is_last_and_not_open(self, books: Books) -> None:
        await books.run(account.prepare(OLENA, FRESH, "Fresh", USD, -70, 100, "wallet", "#2f9e44"))

        assert await books.row("account", FRESH) == {
            "id": "olena-fresh",
            "user_id": "olena",
            "name": "Fresh",
            "currency": "USD",
            "balance": -70,
            "opening_balance": -70,
            "overdraft_limit": 100,
            "icon": "wallet",
            "colour": "#2f9e44",
            "position": 4,
            "state": "opening",
            "opened_at": None,
        }

    async def test_the_first_account_of_a_user_is_first(self, books: Books) -> None:
        await books.run(preparing(UserId("newcomer")))

        assert (await books.row("account", FRESH))["position"] == 1

    @pytest.mark.parametrize("used", [OLENA_USD, TARAS_JPY])
    async def test_a_used_id_is_refused_with_the_same_message_whoever_owns_it(
        self, books: Books, used: AccountId
    ) -> None:
        refused = await refusal_of(books, preparing(OLENA, used))

        assert refused.code == "account.already_exists"
        assert refused.message == f"the account id {used} is already used; choose another"

    async def test_the_id_of_an_account_that_is_being_opened_is_refused(self, books: Books) -> None:
        await books.run(preparing(TARAS))

        assert (await refusal_of(books, preparing(OLENA))).code == "account.already_exists"

    async def test_of_two_concurrent_requests_for_an_id_one_succeeds(self, books: Books) -> None:
        results = await asyncio.gather(books.run(preparing(OLENA)), books.run(preparing(TARAS)), return_exceptions=True)

        refused = [result for result in results if isinstance(result, Refused)]
        assert [result.code for result in refused] == ["account.already_exists"]

    async def test_undoing_a_preparation_leaves_no_trace(self, books: Books) -> None:
        before = await books.snapshot()
        await books.run(preparing())

        await books.undo(preparing())

        assert differences(before, await books.snapshot()) == []

    async def test_undoing_a_preparation_leaves_a_later_account_alone(self, books: Books) -> None:
        later = preparing(account_id=AccountId("olena-later"))
        await books.run(preparing())
        await books.run(later)
        row = await books.row("account", "olena-later")

        await books.undo(preparing())

        assert await books.row("account", "olena-later") == row

    async def test_an_open_account_is_never_removed(self, books: Books) -> None:
        with pytest.raises(RowGone, match="olena-usd"):
            await books.undo(preparing(OLENA, OLENA_USD))

    async def test_another_users_opening_account_is_never_removed(self, books: Books) -> None:
        await books.run(preparing(TARAS))

        with pytest.raises(RowGone):
            await books.undo(preparing(OLENA))


class TestOpenAccount:
    """Opening a prepared account."""

    async def test_opening_records_when_the_event_happened(self, books: Books) -> None:
        await books.run(preparing())

        await books.run(account.open_account(OLENA, FRESH))

        opened = await books.row("account", FRESH)
        assert (opened["state"], opened["opened_at"]) == ("open", EVENT_TIME)

    @pytest.mark.parametrize("account_id", [NOWHERE, OLENA_USD, FRESH])
    async def test_a_missing_or_open_account_or_one_of_another_user_is_not_found(
        self, books: Books, account_id: AccountId
    ) -> None:
        await books.run(preparing(TARAS))

        assert (await refusal_of(books, account.open_account(OLENA, account_id))).code == "account.not_found"


Moving = Operation[[UserId, AccountId, Money], None]


@pytest.mark.parametrize("moving", [account.withdraw, account.deposit], ids=["withdraw", "deposit"])
class TestWithdrawAndDeposit:
    """What both operations refuse in the same way."""

    @pytest.mark.parametrize("account_id", [NOWHERE, TARAS_JPY, FRESH])
    async def test_a_missing_or_opening_account_or_one_of_another_user_is_not_found(
        self, books: Books, moving: Moving, account_id: AccountId
    ) -> None:
        await books.run(preparing(currency=JPY))

        refused = await refusal_of(books, moving(OLENA, account_id, jpy(1)))

        assert refused.code == "account.not_found"
        assert refused.message == f"there is no account {account_id}"

    async def test_another_currency_is_refused(self, books: Books, moving: Moving) -> None:
        assert (await refusal_of(books, moving(OLENA, OLENA_USD, eur(1)))).code == "account.currency_mismatch"

    async def test_another_users_account_is_not_found_even_with_another_currency(
        self, books: Books, moving: Moving
    ) -> None:
        assert (await refusal_of(books, moving(OLENA, TARAS_JPY, eur(1)))).code == "account.not_found"

    async def test_undoing_does_not_touch_another_users_account(self, books: Books, moving: Moving) -> None:
        before = await books.snapshot()

        with pytest.raises(RowGone):
            await books.undo(moving(OLENA, TARAS_JPY, jpy(1)))

        assert differences(before, await books.snapshot()) == []


class TestWithdraw:
    """Taking money out of an account."""

    @pytest.mark.parametrize(
        ("balance", "overdraft_limit", "amount"),
        [(100, 0, 1), (100, 0, 100), (0, 50, 50), (-20, 50, 30), (100, 50, 150), (MONEY_LIMIT, 0, MONEY_LIMIT)],
    )
    async def test_the_balance_may_go_down_to_the_limit(
        self, books: Books, balance: int, overdraft_limit: int, amount: int
    ) -> None:
        await set_balance(books, OLENA_USD, balance, overdraft_limit)

        await books.run(account.withdraw(OLENA, OLENA_USD, usd(amount)))

        assert await balance_of(books, OLENA_USD) == balance - amount

    @pytest.mark.parametrize(
        ("balance", "overdraft_limit", "amount"),
        [(100, 0, 101), (0, 0, 1), (0, 50, 51), (-20, 50, 31), (-80, 50, 1), (0, 0, MONEY_LIMIT)],
    )
    async def test_one_unit_below_the_limit_is_refused(
        self, books: Books, balance: int, overdraft_limit: int, amount: int
    ) -> None:
        await set_balance(books, OLENA_USD, balance, overdraft_limit)

        refused = await refusal_of(books, account.withdraw(OLENA, OLENA_USD, usd(amount)))

        assert refused.code == "account.insufficient_funds"

    async def test_a_refusal_does_not_reveal_the_balance(self, books: Books) -> None:
        await set_balance(books, OLENA_USD, 4_321, 987)

        refused = await refusal_of(books, account.withdraw(OLENA, OLENA_USD, usd(1_000_000)))

        assert refused.message == "the account olena-usd does not hold enough to withdraw $10,000.00"

    async def test_concurrent_withdrawals_succeed_only_as_far_as_the_balance_allows(self, books: Books) -> None:
        await set_balance(books, OLENA_USD, 100)

        results = await asyncio.gather(
            *(books.run(account.withdraw(OLENA, OLENA_USD, usd(30))) for _ in range(8)), return_exceptions=True
        )

        assert results.count(None) == 3
        assert await balance_of(books, OLENA_USD) == 10

    async def test_putting_money_back_may_exceed_any_limit(self, books: Books) -> None:
        await set_balance(books, OLENA_USD, MONEY_LIMIT)

        await books.undo(account.withdraw(OLENA, OLENA_USD, usd(MONEY_LIMIT)))

        assert await balance_of(books, OLENA_USD) == 2 * MONEY_LIMIT

    async def test_putting_money_back_keeps_what_others_did_meanwhile(self, books: Books) -> None:
        await books.run(account.withdraw(OLENA, OLENA_USD, usd(500)))
        await books.run(account.deposit(OLENA, OLENA_USD, usd(7)))

        await books.undo(account.withdraw(OLENA, OLENA_USD, usd(500)))

        assert await balance_of(books, OLENA_USD) == OPENING + 7


class TestDeposit:
    """Adding money to an account."""

    async def test_an_account_holds_up_to_the_limit(self, books: Books) -> None:
        await set_balance(books, OLENA_USD, MONEY_LIMIT - 5)

        await books.run(account.deposit(OLENA, OLENA_USD, usd(5)))

        assert await balance_of(books, OLENA_USD) == MONEY_LIMIT

    async def test_one_unit_over_the_limit_is_refused(self, books: Books) -> None:
        await set_balance(books, OLENA_USD, MONEY_LIMIT - 5)

        assert (await refusal_of(books, account.deposit(OLENA, OLENA_USD, usd(6)))).code == "account.balance_limit"

    async def test_taking_money_back_may_exceed_the_overdraft_limit(self, books: Books) -> None:
        await books.run(account.deposit(OLENA, OLENA_USD, usd(500)))
        await books.run(account.withdraw(OLENA, OLENA_USD, usd(OPENING + 400)))

        await books.undo(account.deposit(OLENA, OLENA_USD, usd(500)))

        assert await balance_of(books, OLENA_USD) == -400

    @pytest.mark.parametrize("sign", [1, -1])
    async def test_a_balance_never_becomes_a_float(self, books: Books, sign: int) -> None:
        ceiling = account.BALANCE_CEILING
        await set_balance(books, OLENA_USD, sign * ceiling)
        further = account.withdraw if sign > 0 else account.deposit

        with pytest.raises(IntegrityError):
            await books.undo(further(OLENA, OLENA_USD, usd(1)))

        assert await balance_of(books, OLENA_USD) == sign * ceiling


class TestCurrencyOf:
    """Asking for an account's currency."""

    async def test_it_returns_the_accounts_currency(self, books: Books) -> None:
        assert await books.run(account.currency_of(OLENA, OLENA_JPY)) == JPY

    @pytest.mark.parametrize("account_id", [NOWHERE, TARAS_JPY, FRESH])
    async def test_a_missing_or_opening_account_or_one_of_another_user_is_not_found(
        self, books: Books, account_id: AccountId
    ) -> None:
        await books.run(preparing(currency=KWD))

        assert (await refusal_of(books, account.currency_of(OLENA, account_id))).code == "account.not_found"


MOVES = st.lists(
    st.tuples(
        st.sampled_from([account.withdraw, account.deposit]),
        st.sampled_from([(OLENA_USD, USD), (OLENA_EUR, EUR)]),
        st.integers(1, 2 * OPENING),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(MOVES, st.randoms(use_true_random=False))
async def test_undoing_every_move_in_any_order_restores_each_row(moves: list[Any], chance: Any) -> None:
    async with new_books() as books:
        before = await books.snapshot()
        done: list[OperationCall[None]] = []
        for moving, (account_id, currency), amount in moves:
            call = moving(OLENA, account_id, Money(amount_minor=amount, currency=currency))
            with suppress(Refused):
                await books.run(call)
                done.append(call)

        chance.shuffle(done)
        for call in done:
            await books.undo(call)

        assert differences(before, await books.snapshot()) == []
