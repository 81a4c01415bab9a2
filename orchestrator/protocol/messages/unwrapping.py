"""Turns the fields in an envelope into a typed event, after its upcasters have brought them to the current version.

The fields may come from any sender, and upcasters and validators are an author's code. Every fault is raised as an
`UnreadableEvent` with a stable code.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from orchestrator.event import DomainEvent, Fields, UndoneStep, upcasters_of
from orchestrator.protocol.messages.envelope import (
    VERSION_NEWER,
    Envelope,
    UnreadableEvent,
    canonical,
    content_digest,
    read,
)
from orchestrator.protocol.messages.json_text import loads_keeping_digits, rounded_field
from orchestrator.protocol.messages.validation_errors import describe

E = TypeVar("E", bound=DomainEvent)


def unwrap(envelope: Envelope, *event_classes: type[E], is_exact: bool = True) -> E:
    """Return the typed event in an envelope; an event of an older version is upcast to the current one.

    Args:
        envelope: the envelope.
        event_classes: the classes that are accepted.
        is_exact: whether to refuse numbers that a float rounds. False for an event that was accepted before such
            numbers were refused, because its recorded steps have the rounded numbers.

    Raises:
        UnreadableEvent: `event.unknown_type`, `event.version_newer`, `event.version_unknown`, or `event.invalid`, which
            names each wrong field.
    """
    for event_class in event_classes:
        if envelope.event_type == event_class.type_name():
            event = unwrap_fields(envelope.data, envelope.version, event_class)
            if envelope.has_rounded_numbers and is_exact:
                refuse_rounded_numbers(loads_keeping_digits(envelope.text)["data"], envelope.version, event_class)
            return event
    accepted = " and ".join(event_class.type_name() for event_class in event_classes)
    raise UnreadableEvent("event.unknown_type", f"type: {envelope.event_type} is not accepted here, only {accepted}")


def is_same_event(
    envelope: Envelope,
    recorded_digest: str,
    recorded: str | tuple[int, Mapping[str, JsonValue]],
    *event_classes: type[DomainEvent],
) -> bool:
    """Whether an envelope repeats the event that has been recorded under its id.

    Equal digests prove it. The digests of one event may differ, because a newer contract writes a default that an older
    one left out. Therefore typed events are compared as well.

    Args:
        envelope: the event in question.
        recorded_digest: the content digest of the recorded event.
        recorded: the recorded event, as its envelope's JSON or as the version and the fields. If its payload has been
            deleted, only the digest counts.
        event_classes: the classes that it may be.
    """
    if envelope.content_digest == recorded_digest:
        return True
    if isinstance(recorded, str):
        known = read(recorded)
        recorded = known.version, known.data
    version, fields = recorded
    if content_digest(envelope.event_type, version, fields) != recorded_digest:
        return False  # another event type, or a deleted payload
    try:
        event = unwrap(envelope, *event_classes)
        return unwrap_fields(fields, version, type(event)) == event
    except UnreadableEvent:
        return False


def id_reused(event_id: str) -> UnreadableEvent:
    """Return the error for an event whose id has already been used for different content."""
    return UnreadableEvent(
        "event.id_reused",
        f"id: {event_id} was already used for different content; the first event counts. Give each event its own id",
    )


def refuse_rounded_numbers(data: Any, version: int, event_class: type[DomainEvent]) -> None:
    """Refuse fields with a number that passes through a binary float and would arrive as another number.

    Args:
        data: the fields, as `json_text.loads_keeping_digits` reads them.
        version: the version of these fields.
        event_class: the class that they were read as.

    Raises:
        UnreadableEvent: `event.invalid`, which asks for a string.
    """
    field = rounded_field(data, event_class if version == event_class.version else None)
    if field is not None and version != event_class.version:
        try:
            unwrap_fields(data, version, event_class)
        except UnreadableEvent:
            return  # the upcasters need or create a float, so the number could not be sent as a string
    if field is not None:
        raise UnreadableEvent(
            "event.invalid", f"{field}: the number has more digits than a JSON number keeps; send it as a string"
        )


def unwrap_fields(fields: Mapping[str, JsonValue], version: int, event_class: type[E]) -> E:
    """Return the event with these fields, which may be of any version up to the current one.

    Raises:
        UnreadableEvent: in the same cases as `unwrap`.
    """
    name, known = event_class.type_name(), event_class.version
    if version > known:
        raise UnreadableEvent(
            VERSION_NEWER,
            f"dataversion: {name} has version {version}, and this process knows it up to version {known}. "
            "A newer worker can read it",
        )
    text = canonical(dict(fields))
    return parse(text if version == known else _upcast(text, version, event_class), event_class)


def _upcast(text: str, version: int, event_class: type[DomainEvent]) -> str:
    """Return the fields of an older version as JSON of the current version."""
    upcasters = upcasters_of(event_class)
    name, known = event_class.type_name(), event_class.version
    fields: Fields = json.loads(text)  # a copy, so that upcasters cannot change the event as it arrived
    for old in range(version, known):
        if old not in upcasters:
            raise UnreadableEvent(
                "event.version_unknown",
                f"dataversion: {name} has version {known} here, and no upcaster converts version {old} to {old + 1}. "
                f"Declare an @upcaster({old})",
            )
        try:
            fields = upcasters[old](fields)
        except Exception as fault:  # an author's code, which must not bring down the process that reads
            raise UnreadableEvent(
                "event.invalid", f"the upcaster of {name} from version {old} failed with {type(fault).__name__}"
            ) from fault
    try:
        return canonical(fields)
    except (ValueError, TypeError) as fault:
        raise UnreadableEvent(
            "event.invalid", f"the upcasters of {name} from version {version} return values that are not JSON"
        ) from fault


def parse(text: str | bytes, event_class: type[E]) -> E:
    """Read an event from the JSON of its fields, strictly.

    Raises:
        UnreadableEvent: `event.invalid`, which names each wrong field but never its value.
    """
    try:
        return event_class.model_validate_json(text, strict=True)
    except ValidationError as fault:
        raise UnreadableEvent("event.invalid", describe(fault)) from fault
    except Exception as fault:  # an author's validator, which must not bring down the process that reads
        raise UnreadableEvent(
            "event.invalid", f"a validator of {event_class.type_name()} failed with {type(fault).__name__}"
        ) from fault


def failure_event(
    failed: type[E],
    triggering: Envelope,
    *,
    error_code: str | None,
    message: str | None,
    undone: Sequence[UndoneStep],
    details: Mapping[str, JsonValue] | None,
) -> E:
    """Return the failure event of a saga.

    Raises:
        UnreadableEvent: `event.invalid`, for example because of an author's validator.
    """
    fields = {
        "event_id": triggering.event_id,
        "event_type": triggering.event_type,
        "event": dict(triggering.data),
        "event_version": triggering.version,
        "error_code": error_code,
        "message": message,
        "undone": [step.model_dump(mode="json") for step in undone],
        "details": None if details is None else dict(details),
    }
    return parse(canonical(fields), failed)
