"""JSON schemas of events, with their docstrings as descriptions, and sample values that fit a schema."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import JsonValue, TypeAdapter

from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.envelope import UnreadableEvent, canonical
from orchestrator.protocol.messages.unwrapping import parse

Schema = Mapping[str, Any]
_TEXTS = (
    "1",
    "a",
    "a1",
    "2026-01-01",
    "2026-01",
    "2026-01-01T12:00:00Z",
    "12:00:00",
    "PT1S",
    "0190b6a4-0000-7000-8000-000000000000",
    "#2f9e44",
    "USD",
    "1.00",
)
_BY_FORMAT = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T12:00:00Z",
    "time": "12:00:00",
    "duration": "PT1S",
    "uuid": "0190b6a4-0000-7000-8000-000000000000",
    "decimal": "1",
}


def schema_of(event: type[DomainEvent]) -> dict[str, Any]:
    """Return the JSON schema of an event's fields, with their docstrings as descriptions."""
    schema = _json_schema(event)
    for name, text in _docstrings(event):
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", text)
    return schema


def _json_schema(event: type[DomainEvent]) -> dict[str, Any]:
    """Return pydantic's schema. The fields are at its top level, even if the event contains itself."""
    schema = event.model_json_schema()
    if "$ref" not in schema:
        return schema
    return {**schema["$defs"][schema["$ref"].rpartition("/")[2]], "$defs": schema["$defs"]}


class Endless(ValueError):
    """Each value of the type would contain another one, so that no value is finite."""


def sample_event(event: type[DomainEvent]) -> DomainEvent | None:
    """Return a valid event: the author's example or one generated from the schema, or None if that is not valid."""
    example = event.example()
    if example is not None:
        return example
    schema = _json_schema(event)
    for text in _TEXTS:
        try:
            return parse(canonical(sample(schema, schema.get("$defs", {}), text)), event)
        except (UnreadableEvent, Endless):
            continue
    return None


def sample_value(hint: Any, *, other: bool = False) -> Any:
    """Return a value of a type, generated from its schema.

    Args:
        hint: the type.
        other: whether to return another value: booleans are true, and the last choice is taken instead of the first.

    Raises:
        ValueError: no generated value is valid.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    schema = adapter.json_schema()
    for text in _TEXTS:
        try:
            return adapter.validate_json(canonical(sample(schema, schema.get("$defs", {}), text, other)), strict=True)
        except ValueError:
            continue
    raise ValueError(f"no valid sample of {hint} could be generated")


def sample(
    schema: Schema, defined: Schema, text: str, other: bool = False, *, within: frozenset[str] = frozenset()
) -> JsonValue:
    """Return a value that fits a schema. Rules that the schema does not express may be broken.

    Args:
        schema: the value's schema.
        defined: schemas by name, for references.
        text: the value of a string without a format or a pattern.
        other: the same as for `sample_value`.
        within: the names of the types that contain the value.

    Raises:
        Endless: no value of the type is finite.
    """

    def inner(part: Schema) -> JsonValue:
        return sample(part, defined, text, other, within=within)

    if "$ref" in schema:
        name: str = schema["$ref"].rpartition("/")[2]
        if name in within:
            raise Endless(f"each {name} contains another")
        return sample(defined[name], defined, text, other, within=within | {name})
    if "const" in schema:
        return schema["const"]  # type: ignore[no-any-return]
    if "enum" in schema:
        return schema["enum"][-1 if other else 0]  # type: ignore[no-any-return]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            members: list[Schema] = [member for member in schema[choice] if member.get("type") != "null"]
            for member in members:
                try:
                    return inner(member)
                except Endless:
                    if member is members[-1] and len(members) == len(schema[choice]):
                        raise
            return None
    match schema.get("type"):
        case "object":
            required = schema.get("required", [])
            return {name: inner(field) for name, field in schema.get("properties", {}).items() if name in required}
        case "array":
            items = list(map(inner, schema.get("prefixItems", [])))
            least: int = schema.get("minItems", 0)
            return items or ([inner(schema.get("items", {}))] * least if least else [])
        case "string":
            return _text(schema, text)
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return other
        case _:
            return None


def _text(schema: Schema, text: str) -> str:
    if schema.get("format") in _BY_FORMAT:
        return _BY_FORMAT[schema["format"]]
    if "pattern" in schema:
        text = next((candidate for candidate in (text, *_TEXTS) if re.search(schema["pattern"], candidate)), text)
    return text.ljust(schema.get("minLength", 0), "a")


def _number(schema: Schema) -> int:
    lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return int(max(1, lowest)) if schema.get("maximum", 1) >= 1 else int(schema["maximum"])


def _docstrings(event: type[DomainEvent]) -> Iterator[tuple[str, str]]:
    """Each field's docstring, starting with the nearest class. A class without readable source is skipped."""
    for base in event.__mro__:
        if not issubclass(base, DomainEvent) or base is DomainEvent:
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, SyntaxError):
            continue
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in pairwise(statements):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if (
                isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                yield field.target.id, inspect.cleandoc(text.value.value)
