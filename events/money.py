"""Money: a whole number of minor units of a currency, never a float.

Currencies and their minor units come from Babel (Unicode CLDR). They are read at import and do not depend on the date,
because an event that was valid when it was accepted must still be readable when its saga is resumed tomorrow.
"""

import re
from datetime import date
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Annotated, Any, Self

from babel.core import get_global
from babel.numbers import format_currency, get_currency_precision, get_territory_currencies
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from events.text import TypedText
from orchestrator.event import Contract

MONEY_LIMIT = 10**15
"""The largest amount in minor units, positive or negative: ten trillion dollars. Sums still fit into 64 bits."""

_DECIMAL = re.compile(r"[0-9]{1,13}(\.[0-9]{1,40})?")
_RATE_DIGITS = 18
"""The significant digits of an inverse rate. The recorded rate is the rounded one that was used."""


def _currencies_in_use() -> dict[str, int]:
    """Return the minor units by code of each currency that is legal tender somewhere today."""
    always = (date.min, date.max)
    used = {
        entry["currency"]
        for territory in get_global("territory_currencies")
        for entry in get_territory_currencies(territory, *always, include_details=True)
        if entry["to"] is None
    }
    return {code: get_currency_precision(code) for code in used}


_MINOR_UNITS = _currencies_in_use()


class Currency(TypedText):
    """The ISO 4217 code of a currency that is legal tender today, such as `Currency("USD")`; not gold or the old mark.

    Raises:
        ValueError: the text is no such code.
    """

    __slots__ = ()

    def __new__(cls, code: str) -> Self:
        if code not in _MINOR_UNITS:
            raise ValueError("takes the ISO 4217 code of a currency that is legal tender today, such as USD")
        return super().__new__(cls, code)

    @property
    def minor_digits(self) -> int:
        """The number of decimal places: 0 for JPY, 2 for USD, 3 for KWD."""
        return _MINOR_UNITS[self]

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": sorted(_MINOR_UNITS)}


def _read(value: Any, info: ValidationInfo) -> Any:
    if info.mode != "json":
        return value
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError('takes a decimal as text, such as "41.35", because a JSON number may lose digits')
    return Decimal(value)


def _plain(rate: Decimal) -> str:
    return f"{rate:f}"


Rate = Annotated[
    Decimal,
    BeforeValidator(_read, json_schema_input_type=str),
    Field(ge=Decimal("1e-12"), le=Decimal("1e12"), max_digits=40),
    PlainSerializer(_plain, return_type=str, when_used="json"),
]
"""An exchange rate: units of one currency for one unit of another. In JSON it is text such as `"0.92"`."""

MinorUnits = Annotated[int, Field(ge=-MONEY_LIMIT, le=MONEY_LIMIT)]
"""An amount in minor units, whose currency is in another field."""


def inverse(rate: Decimal) -> Decimal:
    """Return the opposite rate, rounded half-even to 18 significant digits."""
    with localcontext() as context:
        context.prec = _RATE_DIGITS
        return 1 / rate


class Money(Contract):
    """An amount of one currency, in its minor unit: `{"amount_minor": 1050, "currency": "USD"}` is $10.50."""

    amount_minor: MinorUnits
    """The amount in the currency's minor unit, e.g. cents."""
    currency: Currency
    """The currency of the amount."""

    def shown(self, locale: str = "en_US") -> str:
        """Format the amount for a person, e.g. `¥1,200`. Not for `handle`, because it reads the locale's files."""
        units = Decimal(self.amount_minor).scaleb(-self.currency.minor_digits)
        return format_currency(units, self.currency, locale=locale)

    def converted(self, into: Currency, rate: Decimal) -> "Money":
        """Convert the amount to another currency, rounding half-even once, to that currency's minor unit.

        Raises:
            pydantic.ValidationError: the result is over `MONEY_LIMIT`.
        """
        return Money(amount_minor=self.minor_units_in(into, rate), currency=into)

    def minor_units_in(self, into: Currency, rate: Decimal) -> int:
        """Return the minor units of `converted`, even if they exceed `MONEY_LIMIT`."""
        return minor_units_between(self.amount_minor, self.currency, into, rate)


def _positive(money: Money) -> Money:
    if money.amount_minor <= 0:
        raise ValueError("must be more than zero")
    return money


PositiveMoney = Annotated[Money, AfterValidator(_positive)]
"""`Money` above zero, for an amount that is moved."""


def _not_negative(money: Money) -> Money:
    if money.amount_minor < 0:
        raise ValueError("must not be less than zero")
    return money


NaturalMoney = Annotated[Money, AfterValidator(_not_negative)]
"""`Money` of zero or more, because a small amount may round to zero in another currency."""


class Holding(Contract):
    """A balance in one currency. Unlike `Money` it has no bound, because compensations may exceed the limits."""

    amount_minor: int
    """The balance in the currency's minor unit."""
    currency: Currency
    """The currency of the amount."""


def minor_units_between(amount_minor: int, source: Currency, target: Currency, rate: Decimal) -> int:
    """Convert minor units of one currency to those of another, rounding half-even once.

    Args:
        amount_minor: the amount in the minor unit of `source`, of any size and sign.
        source: the currency to convert from.
        target: the currency to convert to.
        rate: units of `target` for one unit of `source`.
    """
    scale = Fraction(10) ** (target.minor_digits - source.minor_digits)
    return round(amount_minor * Fraction(rate) * scale)
