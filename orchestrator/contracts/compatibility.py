"""Finds incompatible changes of a published schema: whatever was valid must stay valid, with the same meaning.

A change that is not known to be harmless counts as incompatible. Allowed are changed descriptions, looser limits,
additional values of an enumeration, and new optional fields.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_DESCRIPTIONS = ("title", "description", "examples", "$defs")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def incompatibilities(was: Schema, now: Schema) -> list[str]:
    """Describe each change after which a valid value is no longer valid or has another meaning, with its location."""
    return list(_changes(was, now, was.get("$defs", {}), now.get("$defs", {}), "", frozenset()))


def without_descriptions(schema: Any, *, of_fields: bool = False) -> Any:
    """Return a schema without titles, descriptions and examples."""
    if isinstance(schema, dict):
        keys: dict[str, Any] = schema  # pyright: ignore[reportUnknownVariableType]
        return {
            name: without_descriptions(inner, of_fields=name in ("properties", "$defs") and not of_fields)
            for name, inner in keys.items()
            if of_fields or name not in _DESCRIPTIONS or name == "$defs"
        }
    if isinstance(schema, list):
        items: list[Any] = schema  # pyright: ignore[reportUnknownVariableType]
        return [without_descriptions(item) for item in items]
    return schema


def _changes(
    was: Schema, now: Schema, were: Schema, are: Schema, location: str, seen: frozenset[tuple[str, str]]
) -> Iterator[str]:
    subject = location or "the event"
    names = (str(was.get("$ref", "")), str(now.get("$ref", "")))
    if any(names):
        if names in seen:
            return
        seen |= {names}
        was, now = _resolved(was, were), _resolved(now, are)
    for key in sorted({*was, *now} - {*_DESCRIPTIONS, "$ref", "properties", "required"}):
        before, after = was.get(key), now.get(key)
        if key in ("items", "additionalProperties") and _are_schemas(before, after):
            yield from _changes(was[key], now[key], were, are, f"{location}[]", seen)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and before and after:
            yield from _choices(key, before, after, were, are, location, seen)
        elif before != after and not _is_looser(key, before, after):
            yield f"{subject}: {key} was {_shown(before)} and is {_shown(after)}"
    yield from _fields(was, now, were, are, location, seen)


def _fields(
    was: Schema, now: Schema, were: Schema, are: Schema, location: str, seen: frozenset[tuple[str, str]]
) -> Iterator[str]:
    before, after = was.get("properties", {}), now.get("properties", {})
    needed, needs = set(was.get("required", [])), set(now.get("required", []))
    for name in before:
        inner = f"{location}.{name}".lstrip(".")
        if name not in after:
            yield f"{inner}: is gone"
            continue
        if name in needs and name not in needed:
            yield f"{inner}: could be left out, and is required"
        if name in needed and name not in needs:
            # A required field has become optional: every value that was valid still is.
            yield from _changes(before[name], _without_default(after[name]), were, are, inner, seen)
            continue
        yield from _changes(before[name], after[name], were, are, inner, seen)
    for name in after:
        if name not in before and name in needs:
            yield f"{f'{location}.{name}'.lstrip('.')}: is new, and required"


def _choices(
    key: str, before: Any, after: Any, were: Schema, are: Schema, location: str, seen: frozenset[tuple[str, str]]
) -> Iterator[str]:
    if len(after) < len(before) or (len(after) > len(before) and key not in ("anyOf", "oneOf")):
        yield f"{location or 'the event'}: {key} has {len(after)} members and had {len(before)}"
        return
    for old, new in zip(before, after, strict=False):
        yield from _changes(old, new, were, are, location, seen)


def _are_schemas(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def _is_looser(key: str, before: Any, after: Any) -> bool:
    if key == "enum":
        return before is not None and (after is None or set(before) <= set(after))
    if key in _LOWER:
        return before is not None and (after is None or after <= before)
    if key in _UPPER:
        return before is not None and (after is None or after >= before)
    return key in ("pattern", "format") and after is None


def _resolved(schema: Schema, defined: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    siblings = {name: value for name, value in schema.items() if name != "$ref"}
    return {**defined[schema["$ref"].rpartition("/")[2]], **siblings}


def _without_default(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name != "default"}


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
