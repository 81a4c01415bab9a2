"""Reads events in workflow code, which must still accept events that older code accepted with rounded numbers."""

from typing import TypeVar

from temporalio import workflow

from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.messages.unwrapping import unwrap

E = TypeVar("E", bound=DomainEvent)

_EXACT_NUMBERS = "exact-numbers"


def unwrap_in_execution(envelope: Envelope, *event_classes: type[E]) -> E:
    """Return the typed event in an envelope, as `unwrap` does, in a way that replays.

    Raises:
        UnreadableEvent: in the same cases as `unwrap`.
    """
    is_exact = envelope.has_rounded_numbers and workflow.patched(_EXACT_NUMBERS)
    return unwrap(envelope, *event_classes, is_exact=is_exact)
