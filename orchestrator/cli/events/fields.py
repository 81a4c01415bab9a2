"""An event's fields as a person reads them: JSON types, limits, defaults, and the docstring below each field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.schemas import Schema, schema_of
from orchestrator.event import DomainEvent

_NESTED = 4
"""Levels of nesting that are shown; below, and where a type contains itself, its name stands."""
_MANY = 4
"""From so many allowed values on, only the first are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldView:
    """One field of an event."""

    name: str
    type: str
    """As it is written in JSON, e.g. `string`, `{amount_minor: integer, currency: string}`."""
    is_required: bool
    default: str | None
    """As JSON, if there is one."""
    description: str


def fields_of(event: type[DomainEvent]) -> list[FieldView]:
    """The fields of an event, in order."""
    schema = schema_of(event)
    defined: Schema = schema.get("$defs", {})
    properties: Mapping[str, Schema] = schema.get("properties", {})
    required = schema.get("required", [])
    return [
        FieldView(
            name=name,
            type=_type(one, defined),
            is_required=name in required,
            default=json.dumps(one["default"], ensure_ascii=False) if "default" in one else None,
            description=" ".join(str(one.get("description", "")).split()),
        )
        for name, one in properties.items()
    ]


def _type(schema: Schema, defined: Schema, *, nested: bool = False, within: tuple[str, ...] = ()) -> str:
    """The type in words; limits only where there is room for them."""

    def inner(one: Schema) -> str:
        return _type(one, defined, nested=True, within=within)

    if "$ref" in schema:
        name: str = schema["$ref"].rpartition("/")[2]
        if name in within or len(within) >= _NESTED:
            return name
        return _type(defined[name], defined, nested=True, within=(*within, name))
    if "anyOf" in schema:
        return " or ".join(inner(one) for one in schema["anyOf"])
    if "enum" in schema:
        return _one_of(schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "properties" in schema:
        return f"{{{', '.join(f'{name}: {inner(one)}' for name, one in schema['properties'].items())}}}"
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {inner(schema['items'])}"
    if "type" in schema:
        return f"{schema['type']}{'' if nested else _limits(schema)}"
    return "any JSON"


def _one_of(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:_MANY])
    return f"one of {shown}" if len(values) <= _MANY else f"one of {shown}, … ({len(values)} in all)"


def _limits(schema: Schema) -> str:
    said: list[str] = []
    for key, words in (
        ("minimum", "from"),
        ("exclusiveMinimum", "over"),
        ("maximum", "to"),
        ("exclusiveMaximum", "under"),
    ):
        if key in schema:
            said.append(f"{words} {schema[key]}")
    if "maxLength" in schema:
        said.append(f"of at most {schema['maxLength']} characters")
    if "format" in schema:
        said.append(f"({schema['format']})")
    if "pattern" in schema:
        said.append(f"like {schema['pattern']}")
    return f" {' '.join(said)}" if said else ""
