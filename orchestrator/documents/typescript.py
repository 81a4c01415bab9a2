"""TypeScript types of the events' fields, from their JSON schemas."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.schemas import schema_of
from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent

Schema = Mapping[str, Any]
_ENVELOPE = """/** A CloudEvents 1.0 envelope. */
export interface Envelope<Type extends string, Version extends number, Data> {
  specversion: "1.0";
  id: string;
  source: string;
  type: Type;
  /** When it happened, in RFC 3339 form with a time zone. */
  time: string;
  datacontenttype?: "application/json";
  dataversion: Version;
  correlationid?: string;
  causationid?: string;
  data: Data;
}"""


def typescript(catalog: Catalog) -> str:
    """Return a module with a type for each event's fields, and a union type of all events in their envelopes."""
    parts = ["// Generated from the code by: orchestrator catalog --write", _ENVELOPE]
    for event in catalog.events.values():
        parts += _of_event(event)
    union = "\n".join(
        f'  | Envelope<"{name}", {event.version}, {event.__name__}>' for name, event in catalog.events.items()
    )
    parts.append(f"/** Every event. */\nexport type Event =\n{union or '  never'};")
    return "\n\n".join(parts) + "\n"


def _of_event(event: type[DomainEvent]) -> list[str]:
    schema = schema_of(event)
    own = event.__name__
    nested = [
        f"export type {own}_{_identifier(name)} = {_type(inner, own)};"
        for name, inner in schema.get("$defs", {}).items()
    ]
    return [*nested, f"{_comment(schema)}export type {own} = {_type(schema, own)};"]


def _type(schema: Schema, own: str) -> str:
    if "$ref" in schema:
        return f"{own}_{_identifier(schema['$ref'].rpartition('/')[2])}"
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(json.dumps, schema["enum"]))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " | ".join(dict.fromkeys(_type(member, own) for member in schema[choice]))
    match schema.get("type"):
        case "object":
            return _object(schema, own)
        case "array" if "prefixItems" in schema:
            return f"[{', '.join(_type(item, own) for item in schema['prefixItems'])}]"
        case "array":
            return f"({_type(schema.get('items', {}), own)})[]"
        case "integer" | "number":
            return "number"
        case "string" | "boolean" | "null" as plain:
            return str(plain)
        case _:
            return "unknown"


def _object(schema: Schema, own: str) -> str:
    required = schema.get("required", [])
    fields = [
        f"  {_comment(field)}{json.dumps(name)}{'' if name in required else '?'}: {_type(field, own)};"
        for name, field in schema.get("properties", {}).items()
    ]
    if not fields:
        if schema.get("additionalProperties") is False:
            return "Record<string, never>"
        return f"Record<string, {_type(_values(schema), own)}>"
    return "{\n" + "\n".join(fields) + "\n}"


def _comment(schema: Schema) -> str:
    text = " ".join(str(schema.get("description", "")).split()).replace("*/", "* /")
    return f"/** {text} */ " if text else ""


def _identifier(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)


def _values(schema: Schema) -> Schema:
    allowed: Any = schema.get("additionalProperties", True)
    return {} if allowed is True else allowed
