"""Describes an event's fields for display: JSON types, limits, defaults, and the docstring below each field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.schemas import Schema, schema_of
from orchestrator.event import DomainEvent

_SHOWN_LEVELS = 4
"""How many levels of nesting are shown. Deeper types, and types that contain themselves, appear only by name."""
_SHOWN_VALUES = 4
"""The maximum number of allowed values to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldView:
    """One field of an event."""

    name: str
    type: str
    """The type as it is written in JSON, e.g. `string`, `{amount_minor: integer, currency: string}`."""
    is_required: bool
    default: str | None
    """The default value as JSON, or None if there is none."""
    description: str


def fields_of(event: type[DomainEvent]) -> list[FieldView]:
    """Return the fields of an event, in order."""
    schema = schema_of(event)
    defined: Schema = schema.get("$defs", {})
    properties: Mapping[str, Schema] = schema.get("properties", {})
    required = schema.get("required", [])
    return [
        FieldView(
            name=name,
            type=_type(field, defined),
            is_required=name in required,
            default=json.dumps(field["default"], ensure_ascii=False) if "default" in field else None,
            description=" ".join(str(field.get("description", "")).split()),
        )
        for name, field in properties.items()
    ]


def _type(schema: Schema, defined: Schema, *, nested: bool = False, within: tuple[str, ...] = ()) -> str:
    """Return the type in words. Limits are shown only for a type that is not nested in another."""

    def inner(part: Schema) -> str:
        return _type(part, defined, nested=True, within=within)

    if "$ref" in schema:
        name: str = schema["$ref"].rpartition("/")[2]
        if name in within or len(within) >= _SHOWN_LEVELS:
            return name
        return _type(defined[name], defined, nested=True, within=(*within, name))
    if "anyOf" in schema:
        return " or ".join(inner(part) for part in schema["anyOf"])
    if "enum" in schema:
        return _one_of(schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "properties" in schema:
        return f"{{{', '.join(f'{name}: {inner(part)}' for name, part in schema['properties'].items())}}}"
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {inner(schema['items'])}"
    if "type" in schema:
        return f"{schema['type']}{'' if nested else _limits(schema)}"
    return "any JSON"


def _one_of(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN_VALUES])
    return f"one of {shown}" if len(values) <= _SHOWN_VALUES else f"one of {shown}, … ({len(values)} in all)"


def _limits(schema: Schema) -> str:
    limits: list[str] = []
    for key, words in (
        ("minimum", "from"),
        ("exclusiveMinimum", "over"),
        ("maximum", "to"),
        ("exclusiveMaximum", "under"),
    ):
        if key in schema:
            limits.append(f"{words} {schema[key]}")
    if "maxLength" in schema:
        limits.append(f"of at most {schema['maxLength']} characters")
    if "format" in schema:
        limits.append(f"({schema['format']})")
    if "pattern" in schema:
        limits.append(f"like {schema['pattern']}")
    return f" {' '.join(limits)}" if limits else ""
