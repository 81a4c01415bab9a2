"""The envelope: a domain event as it travels, in CloudEvents 1.0 JSON.

Reads what anybody may have sent, so every fault becomes an `UnreadableEvent` with a stable code, never another error.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, TypeVar, cast
from uuid import UUID, uuid5

from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pydantic import JsonValue, ValidationError

from orchestrator.errors import OrchestratorError, storable
from orchestrator.event import DomainEvent, Fields, unstorable, upcasters_of
from orchestrator.protocol.json_text import GivenTwice, loads_keeping_digits, loads_strictly, rounded_field
from orchestrator.values.round_trip import deeper_than

EVENT_SIZE_LIMIT = 256 * 1024
"""Bytes of an envelope. Far under Temporal's 2 MiB a payload: an envelope travels inside commands, with more around."""
OUTCOME_SIZE_LIMIT = 4 * EVENT_SIZE_LIMIT
"""Bytes of an outcome's envelope: a failure event carries the triggering event whole, and in JSON's escapes its letters
take up to three times as much as on arrival."""
CONTENT_LIMIT = EVENT_SIZE_LIMIT - 4 * 1024
"""Bytes of arguments, of a result, or of an event's fields: room is left for the envelope around them."""

NESTING_LIMIT = 100
"""Levels of lists and objects in an event's fields, in arguments and in a result: far from where the recursion of
Python and of pydantic ends, wherever they are read."""
OUTCOME_NESTING = 150
"""Levels of an outcome's event: a failure event carries the triggering event, which may be a failure event, too."""
TYPE_LIMIT = 200
"""Characters of an event's type."""
VERSION_LIMIT = 2**31 - 1
"""The largest version that a database's integer holds."""
VERSION_NEWER = "event.version_newer"
"""Code of an event that waits for a worker with newer contracts."""
_TEXT_LIMIT = 200
"""Characters of a correlation or causation id."""

_SAGAS = UUID("5a1f7c1e-6d2b-5c0e-9b53-6f0f6b8a7d11")
_EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]{0,127}")
_FORMAT = JSONFormat()
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

E = TypeVar("E", bound=DomainEvent)


class UnreadableEvent(OrchestratorError):
    """A message that is no event of ours. Kept as a dead letter under `code`."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = storable(message)
        super().__init__(f"{code}: {self.message}")

    @property
    def is_newer(self) -> bool:
        """Whether a worker with newer contracts could read it."""
        return self.code == VERSION_NEWER

    def __reduce__(self) -> tuple[type["UnreadableEvent"], tuple[str, str]]:
        return (type(self), (self.code, self.message))


@lru_cache(maxsize=512)
def saga_id(orchestrator: str, event_id: str) -> UUID:
    """The saga's id: the same for one orchestrator and one event, wherever and whenever it is asked for."""
    return uuid5(_SAGAS, f"{orchestrator}/{event_id}")


def canonical(value: JsonValue | Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text (after RFC 8785, without its number rules)."""
    return _CANONICAL.encode(value)


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def content_digest(event_type: str, version: int, data: Mapping[str, JsonValue]) -> str:
    """Digest of what an event says."""
    return digest(canonical({"type": event_type, "version": version, "data": dict(data)}))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One event with its CloudEvents attributes. `text` is the JSON exactly as it arrived or will be sent."""

    event_id: str
    event_type: str
    version: int
    time: datetime
    source: str
    data: Mapping[str, JsonValue]
    text: str
    correlation_id: str = ""
    """Id of the event with which it all began, if that was another: CloudEvents' extension `correlationid`."""
    causation_id: str = ""
    """Id of the event that made this one happen, if one did: CloudEvents' extension `causationid`."""
    has_rounded_numbers: bool = False
    """`text` holds a number whose last digits are lost in `data`: see `json_text`."""

    @property
    def began_with(self) -> str:
        """Id of the event with which it all began: what follows from this event carries it on."""
        return self.correlation_id or self.event_id

    @cached_property
    def content_digest(self) -> str:
        """What makes a repeat a repeat: type, version and data. Time and source may differ between two sends."""
        return content_digest(self.event_type, self.version, self.data)


def valid_event_id(event_id: str) -> bool:
    """Whether an id can be an event's: up to 128 letters, digits and `._:@=+-`, as it becomes part of a workflow id."""
    return _EVENT_ID.fullmatch(event_id) is not None


def wrap(
    event: DomainEvent,
    *,
    event_id: str,
    source: str,
    time: datetime | None = None,
    because: Envelope | None = None,
    limit: int = EVENT_SIZE_LIMIT,
) -> Envelope:
    """Put an event in an envelope.

    Args:
        event: what happened.
        event_id: its id.
        source: who says so.
        time: when it happened, with its time zone; now if not given.
        because: the event that made it happen; its correlation is carried on.
        limit: bytes that the envelope may take.

    Raises:
        UnreadableEvent: `event.invalid_id`, `event.too_large` with the limit, or `event.invalid` for a time without
            its zone or an empty source.
    """
    if not valid_event_id(event_id):
        raise UnreadableEvent(
            "event.invalid_id", f"id: {event_id!r} is no event id; it takes 1 to 128 letters, digits and ._:@=+-"
        )
    if not source.strip():
        raise UnreadableEvent("event.invalid", "source: is empty; it says who publishes, as in `my-service`")
    if time is not None and time.tzinfo is None:
        raise UnreadableEvent("event.invalid", "time: has no time zone; write `datetime.now(UTC)`")
    happened = (time or datetime.now(UTC)).astimezone(UTC)
    try:
        data: dict[str, JsonValue] = event.model_dump(mode="json")
    except (ValueError, RecursionError) as fault:
        raise UnreadableEvent("event.invalid", f"its fields cannot be written as JSON: {_first_line(fault)}") from fault
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": event.type_name(),
        "time": happened,
        "datacontenttype": "application/json",
        "dataversion": event.version,
    }
    correlation, causation = ("", "") if because is None else (because.began_with, because.event_id)
    if because is not None:
        attributes |= {"correlationid": correlation, "causationid": causation}
    try:
        text = _FORMAT.write(CloudEvent(attributes, data)).decode()
    except (ValueError, RecursionError) as fault:
        raise UnreadableEvent("event.invalid", f"its fields cannot be written as JSON: {_first_line(fault)}") from fault
    if (size := len(text.encode())) > limit:
        raise UnreadableEvent("event.too_large", too_large(size, limit))
    return Envelope(
        event_id=event_id,
        event_type=event.type_name(),
        version=event.version,
        time=happened,
        source=source,
        data=data,
        text=text,
        correlation_id=correlation,
        causation_id=causation,
    )


def too_large(size: int, limit: int = EVENT_SIZE_LIMIT) -> str:
    """The sentence for an event over the limit."""
    return f"the event takes {size:,} bytes in its envelope and the limit is {limit:,}: send a reference"


def read(raw: bytes | str, *, limit: int = EVENT_SIZE_LIMIT) -> Envelope:
    """Read an envelope that anybody may have sent.

    Args:
        raw: the JSON.
        limit: bytes that it may take; of an outcome's event `OUTCOME_SIZE_LIMIT`.

    Raises:
        UnreadableEvent: `event.too_large`, `event.not_json`, `event.not_cloudevent` or `event.invalid_id`.
    """
    if len(raw) > _REMEMBERED:
        return _read(raw, limit)
    try:
        return _read_again(raw if isinstance(raw, str) else raw.decode("utf-8"), limit)
    except UnicodeDecodeError:
        return _read(raw, limit)


def _read(raw: bytes | str, limit: int = EVENT_SIZE_LIMIT) -> Envelope:
    size = len(raw.encode("utf-8", "surrogatepass")) if isinstance(raw, str) else len(raw)
    if size > limit:
        raise UnreadableEvent("event.too_large", too_large(size, limit))
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        text.encode("utf-8")  # a str may hold a lone surrogate, which no database and no wire takes
        parsed, has_rounded_numbers = loads_strictly(text)
    except GivenTwice as fault:
        raise UnreadableEvent("event.not_json", f"not JSON as it should be: {fault} is given twice") from fault
    except (ValueError, RecursionError) as fault:
        raise UnreadableEvent("event.not_json", f"not JSON: {_first_line(fault)}") from fault
    if not isinstance(parsed, dict):
        raise UnreadableEvent("event.not_cloudevent", "not a CloudEvent: the JSON is no object")
    # The SDK would make up an id or a time that is missing, another one at each reading.
    if missing := [name for name in ("specversion", "id", "source", "type", "time", "data") if name not in parsed]:
        raise UnreadableEvent("event.not_cloudevent", f"not a CloudEvent 1.0 of ours: {', '.join(missing)} missing")
    try:
        message = _FORMAT.read(CloudEvent, text)
    except (BaseCloudEventException, ValueError, TypeError, KeyError, AttributeError) as fault:
        raise UnreadableEvent("event.not_cloudevent", f"not a CloudEvent 1.0: {_first_line(fault)}") from fault
    nesting = NESTING_LIMIT if limit <= EVENT_SIZE_LIMIT else OUTCOME_NESTING
    return _checked(message, text, nesting, has_rounded_numbers=has_rounded_numbers)


_REMEMBERED = 16 * 1024
"""Length of envelopes that are worth remembering: one is read at its opening, at its finish, and between."""
_read_again = lru_cache(maxsize=512)(_read)


def _checked(message: Any, text: str, nesting: int, *, has_rounded_numbers: bool) -> Envelope:
    attributes: dict[str, Any] = message.get_attributes()
    data: object = message.get_data()
    if attributes.get("specversion") != "1.0":
        raise UnreadableEvent("event.not_cloudevent", "specversion: only CloudEvents 1.0 is read here")
    if not isinstance(data, dict):
        raise UnreadableEvent("event.not_cloudevent", "data: must be a JSON object with the event's fields")
    fields = cast("dict[str, JsonValue]", data)
    if deeper_than(nesting, fields):
        raise UnreadableEvent("event.not_cloudevent", f"data: is nested deeper than {nesting} levels")
    event_type, source = str(attributes["type"]), str(attributes["source"])
    for name, value in (("type", event_type), ("source", source)):
        if fault := unstorable(value):
            raise UnreadableEvent("event.not_cloudevent", f"{name}: {fault}")
    if len(event_type) > TYPE_LIMIT:
        raise UnreadableEvent("event.not_cloudevent", f"type: is longer than {TYPE_LIMIT} characters")
    version: object = attributes.get("dataversion", 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION_LIMIT:
        raise UnreadableEvent("event.not_cloudevent", f"dataversion: must be an integer from 1 to {VERSION_LIMIT}")
    time: object = attributes.get("time")
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise UnreadableEvent("event.not_cloudevent", "time: must be a moment with its time zone, as in RFC 3339")
    try:
        time = time.astimezone(UTC)
    except OverflowError as fault:
        raise UnreadableEvent("event.not_cloudevent", "time: is outside of the years 1 to 9999 in UTC") from fault
    event_id = str(attributes["id"])
    if not valid_event_id(event_id):
        raise UnreadableEvent(
            "event.invalid_id", "id: is no event id; it takes 1 to 128 letters, digits and ._:@=+-, the first no sign"
        )
    return Envelope(
        event_id=event_id,
        event_type=event_type,
        version=version,
        time=time,
        source=source,
        data=fields,
        text=text,
        correlation_id=_extension(attributes, "correlationid"),
        causation_id=_extension(attributes, "causationid"),
        has_rounded_numbers=has_rounded_numbers,
    )


def _extension(attributes: Mapping[str, Any], name: str) -> str:
    value: object = attributes.get(name, "")
    if not isinstance(value, str) or len(value) > _TEXT_LIMIT or unstorable(value):
        raise UnreadableEvent("event.not_cloudevent", f"{name}: must be a text of at most {_TEXT_LIMIT} characters")
    return value


def stripped(text: str) -> str:
    """An envelope without its event's fields: what is kept of one whose payload is purged, and can still be read."""
    return json.dumps({**json.loads(text), "data": {}}, ensure_ascii=False)


def unwrap(envelope: Envelope, *event_classes: type[E], is_exact: bool = True) -> E:
    """The typed event in an envelope, of one of these classes; one of an old version becomes today's.

    Args:
        envelope: as it was read.
        event_classes: the classes.
        is_exact: refuse numbers that a float rounds. Not of an event that was accepted and begun before they were
            refused: its recorded steps have the rounded numbers.

    Raises:
        UnreadableEvent: `event.unknown_type`, `event.version_newer`, `event.version_unknown`, or `event.invalid` naming
            each wrong field.
    """
    for event_class in event_classes:
        if envelope.event_type == event_class.type_name():
            event = unwrap_fields(envelope.data, envelope.version, event_class)
            if envelope.has_rounded_numbers and is_exact:
                refuse_rounded_numbers(loads_keeping_digits(envelope.text)["data"], envelope.version, event_class)
            return event
    taken = " and ".join(event_class.type_name() for event_class in event_classes)
    raise UnreadableEvent("event.unknown_type", f"type: {envelope.event_type} is not taken here, only {taken}")


def refuse_rounded_numbers(data: Any, version: int, event_class: type[DomainEvent]) -> None:
    """Refuse fields of which a number would arrive as another one, because it passes through a binary float.

    Args:
        data: the fields, as `json_text.loads_keeping_digits` reads them.
        version: of these fields.
        event_class: what they were read as.

    Raises:
        UnreadableEvent: `event.invalid`, which asks for a string.
    """
    field = rounded_field(data, event_class if version == event_class.version else None)
    if field is not None and version != event_class.version:
        try:
            unwrap_fields(data, version, event_class)
        except UnreadableEvent:
            return  # its upcasters calculate with a float, or it becomes one: it could not be sent as a string
    if field is not None:
        raise UnreadableEvent(
            "event.invalid", f"{field}: the number has more digits than a JSON number keeps: send it as a string"
        )


def unwrap_fields(fields: Mapping[str, JsonValue], version: int, event_class: type[E]) -> E:
    """An event from the fields of any version up to today's.

    Raises:
        UnreadableEvent: as `unwrap`.
    """
    name, known = event_class.type_name(), event_class.version
    if version > known:
        raise UnreadableEvent(
            VERSION_NEWER, f"dataversion: {name} is version {known} here, not {version}: a newer worker can read it"
        )
    text = canonical(dict(fields))
    return parse(text if version == known else _upcast(text, version, event_class), event_class)


def _upcast(text: str, version: int, event_class: type[DomainEvent]) -> str:
    """Fields of an old version as JSON of today's."""
    upcasters = upcasters_of(event_class)
    name, known = event_class.type_name(), event_class.version
    fields: Fields = json.loads(text)  # a copy: what is kept of the event stays as it arrived
    for old in range(version, known):
        if old not in upcasters:
            raise UnreadableEvent(
                "event.version_unknown",
                f"dataversion: {name} is version {known} here, and nothing makes version {old} into {old + 1}: "
                f"give it an @upcaster({old})",
            )
        try:
            fields = upcasters[old](fields)
        except Exception as fault:  # an author's code: whoever sends must not bring down who reads
            raise UnreadableEvent(
                "event.invalid", f"{name}'s upcaster from version {old} failed with {type(fault).__name__}"
            ) from fault
    try:
        return canonical(fields)
    except (ValueError, TypeError) as fault:
        raise UnreadableEvent("event.invalid", f"{name}'s upcasters from version {version} give no JSON") from fault


def parse(text: str | bytes, event_class: type[E]) -> E:
    """An event from the JSON of its fields, strictly.

    Raises:
        UnreadableEvent: `event.invalid`, naming each wrong field and never repeating its value.
    """
    try:
        return event_class.model_validate_json(text, strict=True)
    except ValidationError as fault:
        raise UnreadableEvent("event.invalid", describe(fault)) from fault
    except Exception as fault:  # a validator of the contract's author: whoever sends must not bring down who reads
        raise UnreadableEvent("event.invalid", f"its contract's check failed with {type(fault).__name__}") from fault


def describe(fault: ValidationError) -> str:
    """Each wrong field and what is wrong with it, in one line; no values, as they may be personal."""
    said: list[str] = []
    for error in fault.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(str(part) for part in error["loc"])
        text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        said.append(f"{place}: {text}" if place else text)
    return "; ".join(said)


def _first_line(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0][:300]
