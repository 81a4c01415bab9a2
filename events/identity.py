"""Ids that travel in events: text with a type, so that an account's id is never taken for a user's."""

import re
from typing import Self

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from events.text import TypedText

_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Identity(TypedText):
    """An id: 1 to 64 letters, digits and `._-`, the first a letter or a digit.

    In Python a field takes only an instance of its own class, not plain text and not another kind of id; in JSON it
    is a string.

    Raises:
        ValueError: the text has another form. The message does not repeat it.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _FORM.fullmatch(value):
            raise ValueError("takes 1 to 64 letters, digits and ._-, the first a letter or a digit")
        return super().__new__(cls, value)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^{_FORM.pattern}$"}


class UserId(Identity):
    """Whose data it is."""

    __slots__ = ()


class AccountId(Identity):
    """One account, among all users' accounts."""

    __slots__ = ()


class CategoryId(Identity):
    """One category, among all users' categories."""

    __slots__ = ()
