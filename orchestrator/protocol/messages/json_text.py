"""Reads JSON from any sender, and detects what a plain parser silently drops: duplicate fields and rounded digits.

**Numbers that a float rounds.** Every JSON parser used here turns `12345678901234567.89` into a float, which loses the
last digits. A field declared as a float accepts that. Any other field would silently hold another number, so such a
number is refused and must be sent as a string.
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
"""The number of significant digits that every float keeps, for exponents that fit into as many characters."""


def is_rounded(digits: str) -> bool:
    """Whether a JSON number with a fraction or an exponent is not the shortest form of the float nearest to it."""
    if len(digits) <= _ALWAYS_EXACT and "e" not in digits and "E" not in digits:
        return False
    number = float(digits)
    return not isfinite(number) or Decimal(digits) != Decimal(repr(number))


def has_rounded_number(text: str | bytes) -> bool:
    """Whether a JSON text contains a number that a float rounds. False if the text is not JSON."""
    rounded: list[str] = []

    def check(digits: str) -> float:
        if is_rounded(digits):
            rounded.append(digits)
        return 0.0

    try:
        json.loads(text, parse_float=check)
    except (ValueError, RecursionError):
        return False
    return bool(rounded)


def rounded_field(data: object, model: type[BaseModel] | None) -> str | None:
    """Return the first field that contains a rounded number and could contain a string instead.

    A field that accepts only a float is not reported, because rounding is what its declaration asks for.

    Args:
        data: the fields, as `loads_keeping_digits` reads them.
        model: the model that the fields are read as; None reports every rounded number.
    """
    paths = list(_rounded_paths(data, ()))
    if not paths:
        return None
    numbers_as_strings = json.dumps(data, default=str)
    try:
        if model is not None:
            model.model_validate_json(numbers_as_strings, strict=True)
        rejected: list[tuple[str, ...]] = []
    except ValidationError as fault:
        rejected = [tuple(str(part) for part in error["loc"]) for error in fault.errors(include_url=False)]
    for path in paths:
        if not any(_is_within(path, location) for location in rejected):
            return ".".join(path)
    return None


class GivenTwice(ValueError):
    """A field is given twice in one JSON object, so it is unclear which value is meant."""


def loads_strictly(text: str) -> tuple[object, bool]:
    """Parse JSON, and refuse objects that have a field twice and numbers that are not finite.

    Returns:
        The parsed value, and whether the text contains a number that a float rounds.

    Raises:
        GivenTwice: an object has a field twice.
        ValueError: the text is not JSON.
        RecursionError: the text is nested deeper than Python can parse.
    """
    rounded: list[str] = []

    def number(digits: str) -> float:
        if is_rounded(digits):
            rounded.append(digits)
        return _finite(digits)

    parsed: object = json.loads(text, parse_constant=_no_constant, parse_float=number, object_pairs_hook=_each_once)
    return parsed, bool(rounded)


def doubled_field(text: str | bytes) -> str | None:
    """Return the name of a field that an object in a JSON text has twice; None if there is none or it is not JSON."""
    try:
        json.loads(text, object_pairs_hook=_each_once)
    except GivenTwice as fault:
        return str(fault.args[0])
    except (ValueError, RecursionError):
        pass
    return None


class Digits(str):
    """The digits of a JSON number that a float would round, as they are written in the text."""

    __slots__ = ()


def loads_keeping_digits(text: str | bytes) -> Any:
    """Parse JSON and return each number that a float rounds as `Digits`.

    Raises:
        ValueError: the text is not JSON.
    """
    return json.loads(text, parse_float=lambda digits: Digits(digits) if is_rounded(digits) else float(digits))


def rewrite(text: str, change: Callable[[Any, Callable[[str], Any]], Any], *, indent: int | None = None) -> str:
    """Parse a JSON text, change the value, and write it again without changing the digits of any number.

    Args:
        text: the JSON.
        change: receives the parsed value, in which numbers with a fraction are strings, and a parser for JSON that it
            inserts; returns the value to write.
        indent: as in `json.dumps`.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: the text is nested deeper than Python can parse.
    """
    mark = uuid4().hex

    def loads(part: str) -> Any:
        return json.loads(part, parse_float=lambda digits: f"{mark}{digits}{mark}")

    written = json.dumps(change(loads(text), loads), ensure_ascii=False, indent=indent)
    return re.sub(f'"{mark}([^"]*?){mark}"', r"\1", written)


def _rounded_paths(data: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(data, Digits):
        yield path
    items: Iterable[tuple[object, object]] = ()
    if isinstance(data, dict):
        items = cast("dict[str, object]", data).items()
    elif isinstance(data, list):
        items = enumerate(cast("list[object]", data))
    for name, value in items:
        yield from _rounded_paths(value, (*path, str(name)))


def _is_within(path: tuple[str, ...], location: tuple[str, ...]) -> bool:
    """Whether a path is part of an error's location, which also names the members of unions."""
    rest = iter(location)
    return all(part in rest for part in path)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise GivenTwice(next(name for name in names if names.count(name) > 1)[:100])
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"the number {digits[:20]} is too large")
    return number


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
