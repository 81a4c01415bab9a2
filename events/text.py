"""Text with its own type, whose form is checked when a value is created, both from JSON and in Python."""

from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Note = Annotated[str, Field(max_length=500)]
"""A note that a person has written; it may be empty."""


class TypedText(str):
    """A `str` whose subclasses check their form in `__new__`, so that type checkers and pydantic distinguish them.

    A field takes an instance of its own class, or plain text, which becomes one. It does not take another such class,
    so an account's id is never taken for a user's. In JSON it is a string.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type[Any], _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True)),
            python_schema=core_schema.no_info_before_validator_function(
                cls._of_plain_text, core_schema.is_instance_schema(cls)
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(
                str.__str__, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    @classmethod
    def _of_plain_text(cls, value: Any) -> Any:
        return cls(value) if type(value) is str else value  # a subclass of `str` may be another kind of id
