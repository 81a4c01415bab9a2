"""Amounts between currencies, by `decimal` alone: exact until the one rounding, half-even, to the minor unit."""

from decimal import ROUND_HALF_EVEN, Context, Decimal

MINOR_DIGITS = {"JPY": 0, "USD": 2, "EUR": 2, "UAH": 2, "KWD": 3}
"""Of the currencies that are compared: each kind there is."""

MOST = 10**15
"""Minor units of one amount."""

_EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)
_INVERSE = Context(prec=18, rounding=ROUND_HALF_EVEN)


def converted(amount: int, source: str, target: str, rate: Decimal | None) -> int:
    """Minor units of one currency in minor units of another; negative amounts as positive ones, mirrored.

    Args:
        amount: in minor units of `source`.
        source: its currency.
        target: the other.
        rate: units of `target` for one unit of `source`; None: both are one.
    """
    if rate is None:
        return amount
    units = Decimal(amount).scaleb(-MINOR_DIGITS[source], _EXACT)
    arrived = _EXACT.multiply(units, rate).scaleb(MINOR_DIGITS[target], _EXACT)
    return int(arrived.quantize(Decimal(1), context=_EXACT))


def inverse(rate: Decimal) -> Decimal:
    """The rate of the way back, to 18 significant digits."""
    return _INVERSE.divide(Decimal(1), rate)
