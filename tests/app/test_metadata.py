"""The metadata domain's operations: counting accounts and converting amounts."""

import asyncio
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from activities import metadata
from activities.metadata import Converted
from activities.statements import RowGone
from events.identity import UserId
from events.money import MONEY_LIMIT, Currency, Money
from orchestrator import Refused
from starter.invariants import differences
from starter.tables import EXCHANGE_RATE, USER_METADATA
from tests.app.books import Books, new_books
from tests.app.samples import EUR, KWD, OLENA, UAH, USD, eur, jpy, usd

NEWCOMER = UserId("newcomer")
COUNTING = metadata.count_account(NEWCOMER)


class TestConvert:
    """Converting an amount into another currency."""

    async def test_the_stored_rate_is_used_and_returned(self, books: Books) -> None:
        converted = await books.run(metadata.convert(OLENA, usd(1_050), EUR))

        assert converted == Converted(amount=eur(966), rate=Decimal("0.92"))

    async def test_a_stored_rate_has_priority_over_the_inverse_of_the_opposite_rate(self, books: Books) -> None:
        converted = await books.run(metadata.convert(OLENA, eur(1_000), USD))

        assert converted == Converted(amount=usd(1_087), rate=Decimal("1.087"))

    async def test_if_only_the_opposite_rate_is_stored_its_inverse_is_used_and_returned(self, books: Books) -> None:
        converted = await books.run(metadata.convert(OLENA, jpy(15_137), USD))

        assert converted == Converted(amount=usd(10_000), rate=Decimal("0.00660632886305080267"))

    async def test_the_returned_rate_gives_the_returned_amount(self, books: Books) -> None:
        converted = await books.run(metadata.convert(OLENA, jpy(99_999_999_999), KWD))

        assert converted.rate is not None
        assert jpy(99_999_999_999).converted(KWD, converted.rate) == converted.amount

    async def test_the_same_currency_needs_no_rate(self, books: Books) -> None:
        await books.write(EXCHANGE_RATE.delete())

        converted = await books.run(metadata.convert(OLENA, usd(1), USD))

        assert converted == Converted(amount=usd(1), rate=None)

    async def test_a_missing_rate_is_refused(self, books: Books) -> None:
        with pytest.raises(Refused) as refused:
            await books.run(metadata.convert(OLENA, usd(1), Currency("GBP")))

        assert refused.value.code == "currency.rate_unknown"
        assert refused.value.message == "there is no exchange rate from USD to GBP"

    @pytest.mark.parametrize(
        ("amount", "into", "code"),
        [
            (Money(amount_minor=1, currency=UAH), USD, "currency.amount_too_small"),
            (Money(amount_minor=20, currency=UAH), USD, "currency.amount_too_small"),
            (usd(MONEY_LIMIT), UAH, "currency.amount_too_large"),
        ],
    )
    async def test_an_amount_that_would_arrive_as_zero_or_as_too_much_is_refused(
        self, books: Books, amount: Money, into: Currency, code: str
    ) -> None:
        with pytest.raises(Refused) as refused:
            await books.run(metadata.convert(OLENA, amount, into))

        assert refused.value.code == code

    async def test_the_smallest_amount_that_arrives_is_accepted(self, books: Books) -> None:
        kopiykas = Money(amount_minor=21, currency=UAH)

        assert (await books.run(metadata.convert(OLENA, kopiykas, USD))).amount == usd(1)

    async def test_a_rate_is_stored_digit_for_digit(self, books: Books) -> None:
        long = Decimal("0.123456789012345678901234567890")
        await books.write(EXCHANGE_RATE.insert().values(base="JPY", quote="EUR", rate=long, as_of=date(2026, 1, 1)))

        converted = await books.run(metadata.convert(OLENA, jpy(1_000), EUR))

        assert converted.rate == long


class TestCountAccount:
    """Counting a user's accounts."""

    async def test_the_first_account_creates_the_users_row(self, books: Books) -> None:
        await books.run(COUNTING)

        assert await books.row("user_metadata", NEWCOMER) == {
            "user_id": "newcomer",
            "display_currency": None,
            "language": None,
            "last_reset_month": None,
            "account_count": 1,
        }

    async def test_another_account_adds_one(self, books: Books) -> None:
        await books.run(metadata.count_account(OLENA))

        assert (await books.row("user_metadata", OLENA))["account_count"] == 4

    async def test_undoing_the_first_count_deletes_the_row(self, books: Books) -> None:
        before = await books.snapshot()
        await books.run(COUNTING)

        await books.undo(COUNTING)

        assert differences(before, await books.snapshot()) == []

    @pytest.mark.parametrize(
        "chosen", [{"display_currency": "UAH"}, {"language": "uk-UA"}, {"last_reset_month": "2026-01"}]
    )
    async def test_undoing_keeps_a_row_with_a_users_choice(self, books: Books, chosen: dict[str, str]) -> None:
        await books.write(USER_METADATA.insert().values(user_id=NEWCOMER, account_count=0, **chosen))
        before = await books.snapshot()
        await books.run(COUNTING)

        await books.undo(COUNTING)

        assert differences(before, await books.snapshot()) == []

    async def test_undoing_keeps_what_was_chosen_since(self, books: Books) -> None:
        await books.run(COUNTING)
        await books.write(USER_METADATA.update().where(USER_METADATA.c.user_id == NEWCOMER).values(language="uk-UA"))

        await books.undo(COUNTING)

        row = await books.row("user_metadata", NEWCOMER)
        assert (row["language"], row["account_count"]) == ("uk-UA", 0)

    async def test_undoing_keeps_the_row_while_it_counts_another_account(self, books: Books) -> None:
        await books.run(COUNTING)
        await books.run(COUNTING)

        await books.undo(COUNTING)

        assert (await books.row("user_metadata", NEWCOMER))["account_count"] == 1

    async def test_concurrent_counts_are_all_counted(self, books: Books) -> None:
        await asyncio.gather(*(books.run(COUNTING) for _ in range(5)))

        assert (await books.row("user_metadata", NEWCOMER))["account_count"] == 5

    async def test_concurrent_counts_and_undos_lose_nothing(self, books: Books) -> None:
        before = await books.snapshot()

        async def count_and_undo() -> None:
            await books.run(COUNTING)
            await books.undo(COUNTING)

        await asyncio.gather(*(count_and_undo() for _ in range(10)))

        assert differences(before, await books.snapshot()) == []

    async def test_a_count_that_never_happened_cannot_be_undone(self, books: Books) -> None:
        with pytest.raises(RowGone, match="newcomer"):
            await books.undo(COUNTING)

    async def test_the_database_rejects_a_row_without_any_value(self, books: Books) -> None:
        with pytest.raises(IntegrityError, match="says_something"):
            await books.write(USER_METADATA.insert().values(user_id=NEWCOMER, account_count=0))


@settings(max_examples=15, deadline=None)
@given(
    st.none() | st.sampled_from([{"language": "uk-UA", "account_count": 0}, {"account_count": 2}]),
    st.lists(st.booleans(), max_size=10),
)
async def test_counts_and_undos_in_any_order_restore_the_row(row: dict[str, Any] | None, steps: list[bool]) -> None:
    async with new_books() as books:
        if row is not None:
            await books.write(USER_METADATA.insert().values(user_id=NEWCOMER, **row))
        before = await books.snapshot()
        counted = 0
        for counts in steps:
            if counts:
                await books.run(COUNTING)
                counted += 1
            elif counted:
                await books.undo(COUNTING)
                counted -= 1
        for _ in range(counted):
            await books.undo(COUNTING)

        assert differences(before, await books.snapshot()) == []
