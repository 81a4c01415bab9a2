"""The AsyncAPI 3 document: one channel per event, and the events that each orchestrator receives and sends."""

import json
from typing import Any

from orchestrator.contracts.schemas import schema_of
from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent

_TEXT = {"type": "string"}


def asyncapi(catalog: Catalog, *, title: str, version: str) -> dict[str, Any]:
    """Return the document as JSON.

    Args:
        catalog: the application's events and orchestrators.
        title: the application's name.
        version: the application's version.
    """
    schemas: dict[str, Any] = {}
    for event in catalog.events.values():
        schemas |= _schemas_of(event)
    operations: dict[str, Any] = {}
    for name, orchestrator in catalog.orchestrators.items():
        for event in (*orchestrator.requests, *orchestrator.awaited):
            operations[f"{name}.receives.{event.type_name()}"] = _operation("receive", event, name)
        for event in (orchestrator.completed, orchestrator.failed):
            operations[f"{name}.sends.{event.type_name()}"] = _operation("send", event, name)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            name: {"address": name, "messages": {name: {"$ref": f"#/components/messages/{name}"}}}
            for name in catalog.events
        },
        "operations": operations,
        "components": {
            "messages": {
                name: {
                    "name": name,
                    "title": event.__name__,
                    "summary": summary(event),
                    "contentType": "application/cloudevents+json",
                    "payload": {"$ref": f"#/components/schemas/{name}"},
                }
                for name, event in catalog.events.items()
            },
            "schemas": schemas,
        },
    }


def summary(described: type) -> str:
    """The first line of a class's docstring."""
    return (described.__doc__ or "").strip().partition("\n")[0]


def _operation(action: str, event: type[DomainEvent], orchestrator: str) -> dict[str, Any]:
    name = event.type_name()
    verb = "is driven by" if action == "receive" else "ends with"
    return {
        "action": action,
        "title": f"{orchestrator} {verb} {name}",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }


def _schemas_of(event: type[DomainEvent]) -> dict[str, Any]:
    """The envelope's schema, under the event's type, and the schemas of nested types, under prefixed names."""
    name = event.type_name()
    text = json.dumps(schema_of(event)).replace('"#/$defs/', f'"#/components/schemas/{name}.')
    data: dict[str, Any] = json.loads(text)
    inner = {f"{name}.{inner_name}": schema for inner_name, schema in data.pop("$defs", {}).items()}
    envelope = {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "time", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "maxLength": 128},
            "source": _TEXT,
            "type": {"const": name},
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"const": "application/json"},
            "dataversion": {"const": event.version},
            "correlationid": _TEXT,
            "causationid": _TEXT,
            "data": data,
        },
    }
    return {name: envelope, **inner}
