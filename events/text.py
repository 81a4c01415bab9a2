"""Text that is a type of its own: what a value may be is checked when it is made, from JSON and in Python alike."""

from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Note = Annotated[str, Field(max_length=500)]
"""What a person wrote to it; may be empty."""


class TypedText(str):
    """A `str` whose subclasses check themselves in `__new__`, so that type checkers and pydantic tell them apart.

    In Python a field takes only an instance of its own class; in JSON it is a string.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: type[Any], _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True)),
            python_schema=core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(
                str.__str__, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )
