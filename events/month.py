"""A calendar month, as text that sorts in time order."""

import re
from datetime import date
from typing import Self

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from events.text import TypedText

_FORM = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


class Month(TypedText):
    """A month such as `2026-01`; a later one is greater.

    Raises:
        ValueError: the text has another form.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _FORM.fullmatch(value):
            raise ValueError("takes a month such as 2026-01")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, day: date) -> Self:
        """Return the month of a day, or of a time in its own time zone."""
        return cls(f"{day.year:04}-{day.month:02}")

    @property
    def number(self) -> int:
        """The number of months since year 0."""
        return int(self[:4]) * 12 + int(self[5:]) - 1

    def later(self, months: int) -> Self:
        """Return the month that is `months` later, or earlier if the number is negative."""
        year, month = divmod(self.number + months, 12)
        return type(self)(f"{year:04}-{month + 1:02}")

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_FORM.pattern}$"}
