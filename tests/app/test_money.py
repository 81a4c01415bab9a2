"""Money: whole minor units, one rounding, and no floats."""

import pickle
from decimal import ROUND_HALF_EVEN, Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from events.money import MONEY_LIMIT, Currency, Money, inverse
from tests.app.samples import EUR, JPY, KWD, UAH, USD, eur, jpy, usd

CURRENCIES = st.sampled_from([EUR, JPY, KWD, UAH, USD])
AMOUNTS = st.integers(-MONEY_LIMIT, MONEY_LIMIT)
RATES = st.decimals("1e-6", "1e6", places=9, allow_nan=False, allow_infinity=False)

EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)


@pytest.mark.parametrize(("code", "digits"), [("JPY", 0), ("USD", 2), ("UAH", 2), ("KWD", 3)])
def test_minor_units_depend_on_the_currency(code: str, digits: int) -> None:
    assert Currency(code).minor_digits == digits


@pytest.mark.parametrize(
    ("money", "shown"),
    [
        (jpy(1_200), "¥1,200"),
        (usd(1_050), "$10.50"),
        (usd(-5), "-$0.05"),
        (Money(amount_minor=1_234, currency=KWD), "KWD1.234"),
        (usd(MONEY_LIMIT), "$10,000,000,000,000.00"),
    ],
)
def test_money_is_formatted_as_a_person_writes_it(money: Money, shown: str) -> None:
    assert money.shown() == shown


def test_money_is_formatted_in_the_readers_language() -> None:
    assert eur(123_456).shown("uk_UA") == "1\N{NO-BREAK SPACE}234,56\N{NO-BREAK SPACE}EUR"


@pytest.mark.parametrize("code", ["XXX", "DEM", "usd", ""])
def test_an_unknown_currency_cannot_be_created(code: str) -> None:
    with pytest.raises(ValueError, match="legal tender"):
        Currency(code)


def test_a_currency_can_be_pickled() -> None:
    copied = pickle.loads(pickle.dumps(USD))

    assert (type(copied), copied) == (Currency, USD)


@given(AMOUNTS, CURRENCIES)
def test_money_survives_a_round_trip_through_json(amount: int, currency: Currency) -> None:
    money = Money(amount_minor=amount, currency=currency)

    assert Money.model_validate_json(money.model_dump_json()) == money


@pytest.mark.parametrize(
    ("cents", "rate", "expected"),
    [(5, "0.1", 0), (15, "0.1", 2), (25, "0.1", 2), (35, "0.1", 4), (-15, "0.1", -2), (25, "0.10000000001", 3)],
)
def test_a_half_rounds_to_the_even_neighbour(cents: int, rate: str, expected: int) -> None:
    assert usd(cents).converted(EUR, Decimal(rate)) == eur(expected)


@pytest.mark.parametrize(
    ("money", "into", "rate", "expected"),
    [
        (usd(1_050), JPY, "151.37", 1_589),
        (jpy(1_589), USD, "0.0066", 1_049),
        (usd(1), KWD, "0.3075", 3),
        (Money(amount_minor=1_000, currency=KWD), USD, "3.252", 325),
    ],
)
def test_a_conversion_gives_minor_units_of_the_target(money: Money, into: Currency, rate: str, expected: int) -> None:
    assert money.converted(into, Decimal(rate)) == Money(amount_minor=expected, currency=into)


@given(st.integers(-(10**9), 10**9), CURRENCIES, CURRENCIES, RATES)
def test_a_conversion_is_the_exact_product_rounded_once(
    amount: int, source: Currency, target: Currency, rate: Decimal
) -> None:
    converted = Money(amount_minor=amount, currency=source).minor_units_in(target, rate)

    units = EXACT.multiply(Decimal(amount).scaleb(-source.minor_digits, EXACT), rate)
    exact = units.scaleb(target.minor_digits, EXACT)
    assert converted == int(exact.to_integral_value(ROUND_HALF_EVEN, EXACT))


def test_no_digit_of_a_long_amount_and_a_long_rate_is_lost() -> None:
    rate = Decimal("0.123456789012345678")

    assert usd(999_999_999_999_999).minor_units_in(EUR, rate) == 123_456_789_012_346


def test_a_conversion_over_the_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="amount_minor"):
        usd(MONEY_LIMIT).converted(JPY, Decimal("151.37"))


@given(RATES.filter(lambda rate: rate > 0))
def test_an_inverse_has_eighteen_digits_and_times_the_rate_gives_one(rate: Decimal) -> None:
    inverted = inverse(rate)

    assert len(inverted.as_tuple().digits) <= 18
    assert abs(EXACT.multiply(rate, inverted) - 1) < Decimal("1e-17")
