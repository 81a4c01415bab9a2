"""A month of the calendar, as text that sorts."""

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
        """The month that a day, or a moment where it is read, lies in."""
        return cls(f"{day.year:04}-{day.month:02}")

    @property
    def number(self) -> int:
        """Months since year 0: the month after has one more."""
        return int(self[:4]) * 12 + int(self[5:]) - 1

    def later(self, months: int) -> Self:
        """So many months later, or earlier."""
        year, month = divmod(self.number + months, 12)
        return type(self)(f"{year:04}-{month + 1:02}")

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_FORM.pattern}$"}
