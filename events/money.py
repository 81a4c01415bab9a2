"""Money: whole minor units of a currency. There is no float here, on the way in or on the way out.

Currencies and their minor units come from Babel (Unicode CLDR). They are read at import and no clock is asked: what
was valid when an event was accepted must still be readable when its saga is resumed tomorrow.
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
"""Minor units of one amount, either way: ten trillion dollars. Sums of many stay far inside a database's 64 bits."""

_DECIMAL = re.compile(r"[0-9]{1,13}(\.[0-9]{1,40})?")
_RATE_DIGITS = 18
"""Digits that matter in the inverse of a rate; the recorded rate is the rounded one that was used."""


def _currencies_in_use() -> dict[str, int]:
    """Minor units by code, for each currency that is legal tender somewhere and has no last day."""
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
    """An ISO 4217 code that is legal tender somewhere today: `Currency("USD")`. Not `XXX`, gold, or the old mark.

    Raises:
        ValueError: it is none.
    """

    __slots__ = ()

    def __new__(cls, code: str) -> Self:
        if code not in _MINOR_UNITS:
            raise ValueError("takes the ISO 4217 code of a currency that is legal tender today, such as USD")
        return super().__new__(cls, code)

    @property
    def minor_digits(self) -> int:
        """Digits after the point: 0 for JPY, 2 for USD, 3 for KWD."""
        return _MINOR_UNITS[self]

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": sorted(_MINOR_UNITS)}


def _read(value: Any, info: ValidationInfo) -> Any:
    if info.mode != "json":
        return value
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError('takes a decimal as text, such as "41.35": a JSON number may lose digits on its way')
    return Decimal(value)


def _plain(rate: Decimal) -> str:
    return f"{rate:f}"


Rate = Annotated[
    Decimal,
    BeforeValidator(_read, json_schema_input_type=str),
    Field(ge=Decimal("1e-12"), le=Decimal("1e12"), max_digits=40),
    PlainSerializer(_plain, return_type=str, when_used="json"),
]
"""How many of one currency's units are one of another's: `"0.92"` in JSON, never a number."""

MinorUnits = Annotated[int, Field(ge=-MONEY_LIMIT, le=MONEY_LIMIT)]
"""An amount whose currency stands in a field beside it, in that currency's minor unit."""


def inverse(rate: Decimal) -> Decimal:
    """The rate the other way round, to 18 significant digits, the last one half-even."""
    with localcontext() as context:
        context.prec = _RATE_DIGITS
        return 1 / rate


class Money(Contract):
    """An amount of one currency, in its minor unit: `{"amount_minor": 1050, "currency": "USD"}` is $10.50."""

    amount_minor: MinorUnits
    """In the currency's minor unit, e.g. cents."""
    currency: Currency
    """Which currency."""

    def shown(self, locale: str = "en_US") -> str:
        """For a person, e.g. `¥1,200`. Reads a locale's files: not for `handle`."""
        units = Decimal(self.amount_minor).scaleb(-self.currency.minor_digits)
        return format_currency(units, self.currency, locale=locale)

    def converted(self, into: Currency, rate: Decimal) -> "Money":
        """As much in another currency, rounded half-even to its minor unit; exact until that one rounding.

        Raises:
            pydantic.ValidationError: the result is over `MONEY_LIMIT`.
        """
        return Money(amount_minor=self.minor_units_in(into, rate), currency=into)

    def minor_units_in(self, into: Currency, rate: Decimal) -> int:
        """What `converted` counts, also where that is more than one amount may hold."""
        return minor_units_between(self.amount_minor, self.currency, into, rate)


def _positive(money: Money) -> Money:
    if money.amount_minor <= 0:
        raise ValueError("must be more than zero")
    return money


PositiveMoney = Annotated[Money, AfterValidator(_positive)]
"""`Money` of more than zero, for a field that says how much moves."""


def _not_negative(money: Money) -> Money:
    if money.amount_minor < 0:
        raise ValueError("must not be less than zero")
    return money


NaturalMoney = Annotated[Money, AfterValidator(_not_negative)]
"""`Money` of zero or more: what a small amount is worth in another currency may round to nothing."""


class Holding(Contract):
    """What somebody has in one currency. Unlike `Money` without a bound: undoing may take a balance past any."""

    amount_minor: int
    """In the currency's minor unit."""
    currency: Currency
    """Which currency."""


def minor_units_between(amount_minor: int, source: Currency, target: Currency, rate: Decimal) -> int:
    """Minor units of one currency in those of another, rounded half-even once.

    Args:
        amount_minor: in the minor unit of `source`; any size, either sign.
        source: its currency.
        target: the other.
        rate: units of `target` for one unit of `source`.
    """
    scale = Fraction(10) ** (target.minor_digits - source.minor_digits)
    return round(amount_minor * Fraction(rate) * scale)
