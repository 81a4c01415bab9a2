"""Ids in events: text with its own type, so that an account's id cannot be used as a user's."""

import re
from typing import Self

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from events.text import TypedText

_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Identity(TypedText):
    """An id: 1 to 64 letters, digits and `._-`, the first a letter or a digit.

    A field takes an id of its own kind, or plain text of this form, but not another kind of id.

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
    """The id of a user, who owns the data."""

    __slots__ = ()


class AccountId(Identity):
    """The id of an account, unique among the accounts of all users."""

    __slots__ = ()


class CategoryId(Identity):
    """The id of a category, unique among the categories of all users."""

    __slots__ = ()
