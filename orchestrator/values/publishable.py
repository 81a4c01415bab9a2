"""Checks an event before it is sent: every receiver must read its JSON back as the same event."""

from collections.abc import Mapping

from pydantic import JsonValue

from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.envelope import NESTING_LIMIT, UnreadableEvent, canonical
from orchestrator.protocol.messages.unwrapping import parse
from orchestrator.values.round_trip import deeper_than, difference, model_may_be_deep, model_may_change


def check_publishable(
    event: DomainEvent, fields: Mapping[str, JsonValue], *, read_as: type[DomainEvent] | None = None
) -> None:
    """Read an event back from its fields. This also finds an event that was built without validation.

    Args:
        event: the event to be sent.
        fields: its fields as JSON, in the form in which they are sent.
        read_as: the class that will read it, if that is not the event's own class.

    Raises:
        UnreadableEvent: `event.invalid`, because the fields cannot be read, are nested too deep, or are read as another
            event.
    """
    event_class = read_as or type(event)
    if model_may_be_deep(event_class) and deeper_than(NESTING_LIMIT, fields):
        raise UnreadableEvent("event.invalid", f"its fields are nested deeper than {NESTING_LIMIT} levels")
    try:
        text = canonical(fields)
    except ValueError as fault:
        raise UnreadableEvent("event.invalid", f"a field has a value that JSON cannot represent: {fault}") from fault
    again = parse(text, event_class)
    if model_may_change(event_class) and (how := difference(event, again)):
        raise UnreadableEvent("event.invalid", f"it would arrive as another event: {how}")
