"""Checks an event before it is sent. This needs only a catalog and no connection."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import EventRejected
from orchestrator.event import DomainEvent, event_type_of
from orchestrator.protocol.messages.envelope import EVENT_SIZE_LIMIT, Envelope, UnreadableEvent, read, wrap
from orchestrator.protocol.messages.json_text import doubled_field, has_rounded_number, loads_keeping_digits
from orchestrator.protocol.messages.unwrapping import parse, refuse_rounded_numbers, unwrap
from orchestrator.values.publishable import check_publishable


def read_event(catalog: Catalog, event_type: str, payload: str | bytes) -> DomainEvent:
    """Parse an event from its type and the JSON of its fields, as strictly as a worker does.

    Raises:
        EventRejected: `event.unknown_type`, `event.too_large`, or `event.invalid` naming each wrong field.
    """
    event_class = event_class_of(catalog, event_type)
    try:
        data = payload.encode() if isinstance(payload, str) else payload
        if len(data) > EVENT_SIZE_LIMIT:
            size = f"{event_type}: takes {len(data):,} bytes, and the limit is {EVENT_SIZE_LIMIT:,}"
            advice = "Store the large part elsewhere and send a reference"
            raise EventRejected("event.too_large", f"{size}{_largest_field(_parsed_or_none(data))}. {advice}")
        if (name := doubled_field(data)) is not None:
            raise EventRejected("event.invalid", f"{event_type}: {name}: the field is given twice")
        event = parse(data, event_class)
        if has_rounded_number(data):
            refuse_rounded_numbers(loads_keeping_digits(data), event.version, event_class)
        return event
    except UnicodeEncodeError as fault:
        raise EventRejected("event.invalid", f"{event_type}: the JSON is not valid UTF-8") from fault
    except UnreadableEvent as fault:
        raise EventRejected(fault.code, f"{event_type}: {fault.message}") from fault


def event_class_of(catalog: Catalog, event_type: str) -> type[DomainEvent]:
    """Return the class of an event type.

    Raises:
        EventRejected: `event.unknown_type`, with similar event types, or else those that start sagas.
    """
    event_class = catalog.events.get(event_type)
    if event_class is not None:
        return event_class
    spellings = (event_type.upper(), event_type_of(event_type))
    close = {match: None for spelling in spellings for match in get_close_matches(spelling, catalog.events, n=2)}
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; sagas start on {_starts(catalog)}"
    raise EventRejected("event.unknown_type", f"{event_type!r} is not an event type of this application{hint}")


def envelope_of(
    catalog: Catalog, event: DomainEvent, *, event_id: str, source: str, time: datetime | None = None
) -> Envelope:
    """Wrap an event in the envelope in which it will be sent.

    Raises:
        EventRejected: the event has no listener, is invalid or too large, or its id is invalid.
    """
    name = event.type_name()
    if not catalog.listeners(type(event)):
        raise EventRejected(
            "event.no_listener",
            f"no orchestrator listens to {name}, so nothing would happen; sagas start on {_starts(catalog)}",
        )
    return checked_envelope(event, event_id=event_id, source=source, time=time)


def checked_envelope(event: DomainEvent, *, event_id: str, source: str, time: datetime | None = None) -> Envelope:
    """Wrap an event in its envelope without requiring a listener.

    Raises:
        EventRejected: the event is invalid or too large, or its id is invalid.
    """
    name = event.type_name()
    try:
        envelope = wrap(event, event_id=event_id, source=source, time=time)
        check_publishable(event, envelope.data)
    except UnreadableEvent as fault:
        field = _largest_field(event.model_dump(mode="json")) if fault.code == "event.too_large" else ""
        raise EventRejected(fault.code, f"{name}: {fault.message}{field}") from fault
    return envelope


@dataclass(frozen=True, slots=True)
class Addressed:
    """An event in its envelope, with the orchestrators that listen to it."""

    envelope: Envelope
    event: DomainEvent | None
    """The event; None if only a newer worker can read it."""
    listeners: Sequence[AnyOrchestrator]


def address(catalog: Catalog, raw: bytes | str) -> Addressed:
    """Read and check a raw message from any sender as strictly as a worker does, and find its listeners.

    Raises:
        EventRejected: the message cannot be read, its event type is unknown, or it has no listener.
    """
    try:
        envelope = read(raw)
        event_class = event_class_of(catalog, envelope.event_type)
        listeners = catalog.listeners(event_class)
        if not listeners:
            raise EventRejected(
                "event.no_listener",
                f"no orchestrator listens to {envelope.event_type}, so nothing would happen; sagas start on "
                f"{_starts(catalog)}",
            )
        try:
            return Addressed(envelope, unwrap(envelope, event_class), listeners)
        except UnreadableEvent as fault:
            if not fault.is_newer:
                raise
            return Addressed(envelope, None, listeners)
    except UnreadableEvent as fault:
        raise EventRejected(fault.code, fault.message) from fault


def _starts(catalog: Catalog) -> str:
    return (
        ", ".join(
            sorted(
                {
                    event.type_name()
                    for orchestrator in catalog.orchestrators.values()
                    for event in orchestrator.requests
                }
            )
        )
        or "none"
    )


def _parsed_or_none(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _largest_field(fields: object) -> str:
    """Describe the largest field of an event, for a message."""
    if not isinstance(fields, Mapping) or not fields:
        return ""
    sizes: dict[str, int] = {
        str(name): len(json.dumps(value))  # pyright: ignore[reportUnknownArgumentType]
        for name, value in fields.items()  # pyright: ignore[reportUnknownVariableType]
    }
    largest = max(sizes, key=lambda name: sizes[name])
    return f" (its field {largest} alone takes {sizes[largest]:,} bytes)"
