"""Reads JSON text that anybody may have sent, and finds what a plain parser would lose: doubled fields, last digits.

**Numbers that a float rounds.** Every JSON parser in use here makes a float of `12345678901234567.89`, and the last
digits are gone. A field that is declared as a float takes the nearest one. Any other field would silently hold another
number, so its sender is asked for a string. Knows pydantic alone.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from math import isfinite
from typing import Any, cast
from uuid import uuid4

from pydantic import BaseModel, ValidationError

_ALWAYS_EXACT = 15
"""Significant digits that every float keeps, in the range of exponents that these few characters can write."""


def is_rounded(digits: str) -> bool:
    """Whether a JSON number with a fraction or an exponent is not the shortest form of the float nearest to it."""
    if len(digits) <= _ALWAYS_EXACT and "e" not in digits and "E" not in digits:
        return False
    number = float(digits)
    return not isfinite(number) or Decimal(digits) != Decimal(repr(number))


def has_rounded_number(text: str | bytes) -> bool:
    """Whether a JSON text holds a number that a float rounds. False for what is no JSON."""
    found: list[str] = []

    def look(digits: str) -> float:
        if is_rounded(digits):
            found.append(digits)
        return 0.0

    try:
        json.loads(text, parse_float=look)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def rounded_field(data: object, model: type[BaseModel] | None) -> str | None:
    """The first field whose rounded digits matter, of fields that a model can be read from.

    Its digits matter where it could as well be sent as a string: anywhere but in a field of floats.

    Args:
        data: the fields, as `loads_keeping_digits` reads them.
        model: what they are read as; None of any number.
    """
    places = list(_rounded_places(data, ()))
    if not places:
        return None
    texts = json.dumps(data, default=str)
    try:
        if model is not None:
            model.model_validate_json(texts, strict=True)
        wrong: list[tuple[str, ...]] = []
    except ValidationError as fault:
        wrong = [tuple(str(part) for part in error["loc"]) for error in fault.errors(include_url=False)]
    for place in places:
        if not any(_is_within(place, location) for location in wrong):
            return ".".join(place)
    return None


class GivenTwice(ValueError):
    """A field stands twice in one JSON object: of two amounts, which was meant?"""


def loads_strictly(text: str) -> tuple[object, bool]:
    """Parse JSON in which each field stands once and each number is finite.

    Returns:
        What it says, and whether it holds a number that a float rounds.

    Raises:
        GivenTwice: a field stands twice.
        ValueError: it is no JSON.
        RecursionError: it is nested deeper than Python reads.
    """
    rounded: list[str] = []

    def number(digits: str) -> float:
        if is_rounded(digits):
            rounded.append(digits)
        return _finite(digits)

    parsed: object = json.loads(text, parse_constant=_no_constant, parse_float=number, object_pairs_hook=_each_once)
    return parsed, bool(rounded)


def doubled_field(text: str | bytes) -> str | None:
    """Name of a field that stands twice in one object of a JSON text, if it is JSON and there is one."""
    try:
        json.loads(text, object_pairs_hook=_each_once)
    except GivenTwice as fault:
        return str(fault.args[0])
    except (ValueError, RecursionError):
        pass
    return None


class Digits(str):
    """A JSON number that a float rounds, as it was written."""

    __slots__ = ()


def loads_keeping_digits(text: str | bytes) -> Any:
    """Parse JSON; a number that a float rounds is read as its `Digits`.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text, parse_float=lambda digits: Digits(digits) if is_rounded(digits) else float(digits))


def rewrite(text: str, change: Callable[[Any, Callable[[str], Any]], Any], *, indent: int | None = None) -> str:
    """Parse a JSON text, change it, and write it again with the digits that each number had.

    Args:
        text: the JSON.
        change: takes what was parsed, in which a number with a fraction stands as a string, and a parser for JSON that
            is put into it; returns what is written.
        indent: as of `json.dumps`.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested deeper than Python reads.
    """
    mark = uuid4().hex

    def loads(part: str) -> Any:
        return json.loads(part, parse_float=lambda digits: f"{mark}{digits}{mark}")

    written = json.dumps(change(loads(text), loads), ensure_ascii=False, indent=indent)
    return re.sub(f'"{mark}([^"]*?){mark}"', r"\1", written)


def _rounded_places(data: object, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(data, Digits):
        yield place
    items: Iterable[tuple[object, object]] = ()
    if isinstance(data, dict):
        items = cast("dict[str, object]", data).items()
    elif isinstance(data, list):
        items = enumerate(cast("list[object]", data))
    for name, value in items:
        yield from _rounded_places(value, (*place, str(name)))


def _is_within(place: tuple[str, ...], location: tuple[str, ...]) -> bool:
    """Whether an error's location, which also names members of unions, leads to a place."""
    rest = iter(location)
    return all(part in rest for part in place)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise GivenTwice(next(name for name in names if names.count(name) > 1)[:100])
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"{digits[:20]} is larger than a JSON number may be here")
    return number


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
