"""The envelope of a domain event: how it is written and read as CloudEvents 1.0 JSON.

The input may be anything that a sender has sent. Every fault is raised as an `UnreadableEvent` with a stable code, and
never as another error.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    JsonValue,
    ValidationError,
)

from orchestrator.errors import OrchestratorError, storable
from orchestrator.event import DomainEvent, unstorable
from orchestrator.protocol.messages.json_text import GivenTwice, loads_strictly
from orchestrator.protocol.messages.validation_errors import describe
from orchestrator.protocol.names import EVENT_SIGNAL, EVENT_SOURCES
from orchestrator.values.round_trip import deeper_than

EVENT_SIZE_LIMIT = 256 * 1024
"""The maximum size of an envelope in bytes. It is far below Temporal's limit of 2 MiB per payload, because a command
carries an envelope together with other data."""
OUTCOME_SIZE_LIMIT = 4 * EVENT_SIZE_LIMIT
"""The maximum size of an outcome's envelope in bytes. A failure event contains the whole triggering event, whose JSON
escapes may take three times as many bytes as on arrival."""
CONTENT_LIMIT = EVENT_SIZE_LIMIT - 4 * 1024
"""The maximum size in bytes of a step's arguments, its result, or an event's fields. The rest is for the envelope."""

NESTING_LIMIT = 100
"""The maximum nesting of lists and objects in an event's fields, in arguments and in a result. It is far below the
recursion limits of Python and of pydantic."""
OUTCOME_NESTING = 150
"""The maximum nesting of an outcome's event. A failure event contains its triggering event, which may be a failure
event as well."""
TYPE_LIMIT = 200
"""The maximum length of an event type, in characters."""
VERSION_LIMIT = 2**31 - 1
"""The largest contract version, because a database column of type integer holds no larger number."""
VERSION_NEWER = "event.version_newer"
"""The error code of an event that only a worker with newer contracts can read."""
_TEXT_LIMIT = 200
"""The maximum length of a correlation or causation id, in characters."""

_SAGAS = UUID("5a1f7c1e-6d2b-5c0e-9b53-6f0f6b8a7d11")
_EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]{0,127}")
_ID_RULE = "it has 1 to 128 letters, digits and ._:@=+-, and starts with a letter or a digit"
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class UnreadableEvent(OrchestratorError):
    """A message cannot be read as an event of this application. It is stored as a dead letter with the code `code`."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = storable(message)
        super().__init__(f"{code}: {self.message}")

    @property
    def is_newer(self) -> bool:
        """Whether a worker with newer contracts could read the event."""
        return self.code == VERSION_NEWER

    def __reduce__(self) -> tuple[type["UnreadableEvent"], tuple[str, str]]:
        return (type(self), (self.code, self.message))


@lru_cache(maxsize=512)
def saga_id(orchestrator: str, event_id: str) -> UUID:
    """Return the id of the saga in which an orchestrator handles an event. It is derived from these two alone."""
    return uuid5(_SAGAS, f"{orchestrator}/{event_id}")


def canonical(value: JsonValue | Mapping[str, Any]) -> str:
    """Write JSON with sorted keys and no spaces, so that equal values give equal text.

    This follows RFC 8785, except for its rules about numbers.
    """
    return _CANONICAL.encode(value)


def digest(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def content_digest(event_type: str, version: int, data: Mapping[str, JsonValue]) -> str:
    """Return the digest of an event's type, version and fields."""
    return digest(canonical({"type": event_type, "version": version, "data": dict(data)}))


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One event with its CloudEvents attributes."""

    event_id: str
    event_type: str
    version: int
    time: datetime
    source: str
    data: Mapping[str, JsonValue]
    text: str
    """The JSON exactly as it arrived or will be sent."""
    correlation_id: str = ""
    """The id of the first event of the causal chain, if it is not this one (CloudEvents extension `correlationid`)."""
    causation_id: str = ""
    """The id of the event that caused this one, if there is one (CloudEvents extension `causationid`)."""
    has_rounded_numbers: bool = False
    """Whether `text` contains a number whose last digits are lost in `data`; see `json_text`."""

    @property
    def began_with(self) -> str:
        """The id of the first event of the causal chain; events that this one causes pass it on."""
        return self.correlation_id or self.event_id

    @cached_property
    def content_digest(self) -> str:
        """The digest of type, version and data. Time and source are left out, because they may differ when an event is
        sent again."""
        return content_digest(self.event_type, self.version, self.data)


def valid_event_id(event_id: str) -> bool:
    """Whether an id is 1 to 128 letters, digits and `._:@=+-`, because it becomes part of a workflow id."""
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
        event: the event.
        event_id: the event's id.
        source: the name of the publisher.
        time: when the event happened, with a time zone; now by default.
        because: the event that caused this one; its correlation id is passed on.
        limit: the maximum size of the envelope in bytes.

    Raises:
        UnreadableEvent: `event.invalid_id`, `event.too_large`, or `event.invalid` for a time without a time zone or
            for an empty source.
    """
    if not valid_event_id(event_id):
        raise UnreadableEvent("event.invalid_id", f"id: {event_id!r} is not an event id; {_ID_RULE}")
    if not source.strip():
        raise UnreadableEvent("event.invalid", "source: is empty; it must name the publisher, as in `my-service`")
    if time is not None and time.tzinfo is None:
        raise UnreadableEvent("event.invalid", "time: has no time zone; write for example `datetime.now(UTC)`")
    happened = (time or datetime.now(UTC)).astimezone(UTC)
    try:
        data: dict[str, JsonValue] = event.model_dump(mode="json")
    except (ValueError, RecursionError) as fault:
        raise UnreadableEvent("event.invalid", f"its fields cannot be written as JSON: {_first_line(fault)}") from fault
    attributes: dict[str, JsonValue] = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": event.type_name(),
        "time": happened.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "dataversion": event.version,
    }
    correlation, causation = ("", "") if because is None else (because.began_with, because.event_id)
    if because is not None:
        attributes |= {"correlationid": correlation, "causationid": causation}
    try:
        text = json.dumps({**attributes, "data": data}, allow_nan=False)
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
    """Return the message for an event over the size limit."""
    return (
        f"the event takes {size:,} bytes in its envelope and the limit is {limit:,}. "
        "Store the large part and send a reference to it"
    )


def read(raw: bytes | str, *, limit: int = EVENT_SIZE_LIMIT) -> Envelope:
    """Read an envelope, which may come from any sender.

    Args:
        raw: the JSON.
        limit: its maximum size in bytes; `OUTCOME_SIZE_LIMIT` for the event of an outcome.

    Raises:
        UnreadableEvent: `event.too_large`, `event.not_json`, `event.not_cloudevent` or `event.invalid_id`.
    """
    if len(raw) > _REMEMBERED:
        return _read(raw, limit)
    try:
        return _read_again(raw if isinstance(raw, str) else raw.decode("utf-8"), limit)
    except UnicodeDecodeError:
        return _read(raw, limit)


def read_received(source: str, raw: bytes) -> Envelope:
    """Read the envelope in a message that an execution has received.

    Args:
        source: how the message arrived, see `names.EVENT_SOURCES`.
        raw: the message.

    Raises:
        UnreadableEvent: `signal.unknown` for a source that carries no events, `event.missing` for an empty message, or
            as `read`.
    """
    check_received(source, raw)
    return read(raw)


def check_received(source: str, raw: bytes) -> None:
    """Check that a message can contain an event, without reading it.

    Raises:
        UnreadableEvent: `signal.unknown` or `event.missing`.
    """
    if source not in EVENT_SOURCES:
        raise UnreadableEvent(
            "signal.unknown", f"{source}: is not a signal for events; send the event by `{EVENT_SIGNAL}`"
        )
    if not raw:
        raise UnreadableEvent("event.missing", "the message is empty; send the event's envelope as its argument")


def _storable(text: str) -> str:
    if fault := unstorable(text):
        raise ValueError(fault)
    return text


def _timestamp(value: object) -> datetime:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("must be an RFC 3339 timestamp with a time zone")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except OverflowError as fault:
        raise ValueError("must be within the years 1 to 9999 in UTC") from fault


# `InstanceOf`, because pydantic's own strings refuse lone surrogates, for which other checks give the reason.
_Text = Annotated[InstanceOf[str], Field(min_length=1)]
_StorableText = Annotated[_Text, AfterValidator(_storable)]
_ExtensionName = Annotated[str, Field(pattern="^[a-z0-9]+$")]
_Reference = Annotated[InstanceOf[str], Field(max_length=_TEXT_LIMIT), AfterValidator(_storable)]


class _Attributes(BaseModel):
    """The attributes of an envelope: those that CloudEvents 1.0 defines, and those that the engine adds."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[_ExtensionName, Any]  # pyright: ignore[reportIncompatibleVariableOverride]

    specversion: Literal["1.0"]
    id: _Text
    source: _StorableText
    type: Annotated[_StorableText, Field(max_length=TYPE_LIMIT)]
    time: Annotated[datetime, BeforeValidator(_timestamp)]
    data: dict[Any, Any]
    subject: _Text = ""
    datacontenttype: _Text = ""
    dataschema: _Text = ""
    dataversion: Annotated[int, Field(ge=1, le=VERSION_LIMIT)] = 1
    correlationid: _Reference = ""
    causationid: _Reference = ""


def _read(raw: bytes | str, limit: int = EVENT_SIZE_LIMIT) -> Envelope:
    size = len(raw.encode("utf-8", "surrogatepass")) if isinstance(raw, str) else len(raw)
    if size > limit:
        raise UnreadableEvent("event.too_large", too_large(size, limit))
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        text.encode("utf-8")  # a str may contain a lone surrogate, which neither a database nor Temporal accepts
        parsed, has_rounded_numbers = loads_strictly(text)
    except GivenTwice as fault:
        raise UnreadableEvent("event.not_json", f"not valid JSON: {fault} is given twice in one object") from fault
    except (ValueError, RecursionError) as fault:
        raise UnreadableEvent("event.not_json", f"not JSON: {_first_line(fault)}") from fault
    if not isinstance(parsed, dict):
        raise UnreadableEvent("event.not_cloudevent", "not a CloudEvent: the JSON is not an object")
    try:
        attributes = _Attributes.model_validate(parsed)
    except ValidationError as fault:
        raise UnreadableEvent("event.not_cloudevent", f"not a CloudEvent 1.0: {describe(fault)}") from fault
    nesting = NESTING_LIMIT if limit <= EVENT_SIZE_LIMIT else OUTCOME_NESTING
    if deeper_than(nesting, attributes.data):
        raise UnreadableEvent("event.not_cloudevent", f"data: is nested deeper than {nesting} levels")
    if not valid_event_id(attributes.id):
        raise UnreadableEvent("event.invalid_id", f"id: is not an event id; {_ID_RULE}")
    return Envelope(
        event_id=attributes.id,
        event_type=attributes.type,
        version=attributes.dataversion,
        time=attributes.time,
        source=attributes.source,
        data=attributes.data,
        text=text,
        correlation_id=attributes.correlationid,
        causation_id=attributes.causationid,
        has_rounded_numbers=has_rounded_numbers,
    )


_REMEMBERED = 16 * 1024
"""The maximum length of an envelope that is cached; a saga reads its envelope several times."""
_read_again = lru_cache(maxsize=512)(_read)


def stripped(text: str) -> str:
    """Return an envelope without its event's fields; it can still be read. A purge replaces the original with it."""
    return json.dumps({**json.loads(text), "data": {}}, ensure_ascii=False)


def _first_line(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0][:300]
