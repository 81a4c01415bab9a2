"""Converts amounts with `decimal` alone: exact until the one half-even rounding to the minor unit."""

from decimal import ROUND_HALF_EVEN, Context, Decimal

MINOR_DIGITS = {"JPY": 0, "USD": 2, "EUR": 2, "UAH": 2, "KWD": 3}
"""The compared currencies: one of each kind."""

MOST = 10**15
"""The largest amount, in minor units."""

_EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)
_INVERSE = Context(prec=18, rounding=ROUND_HALF_EVEN)


def converted(amount: int, source: str, target: str, rate: Decimal | None) -> int:
    """Convert minor units of one currency to those of another; a negative amount gives the negated result.

    Args:
        amount: minor units of `source`.
        source: the currency of the amount.
        target: the currency of the result.
        rate: units of `target` for one unit of `source`, or None if both are the same.
    """
    if rate is None:
        return amount
    units = Decimal(amount).scaleb(-MINOR_DIGITS[source], _EXACT)
    arrived = _EXACT.multiply(units, rate).scaleb(MINOR_DIGITS[target], _EXACT)
    return int(arrived.quantize(Decimal(1), context=_EXACT))


def inverse(rate: Decimal) -> Decimal:
    """Return the opposite rate, with 18 significant digits."""
    return _INVERSE.divide(Decimal(1), rate)
