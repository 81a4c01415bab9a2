"""Reads an event in an execution; one that was taken before rounded numbers were refused is taken on replay, too."""

from typing import TypeVar

from temporalio import workflow

from orchestrator.event import DomainEvent
from orchestrator.protocol.envelope import Envelope
from orchestrator.protocol.unwrapping import unwrap

E = TypeVar("E", bound=DomainEvent)

_EXACT_NUMBERS = "exact-numbers"


def unwrap_in_execution(envelope: Envelope, *event_classes: type[E]) -> E:
    """The typed event in an envelope, as `unwrap` returns it; for workflow code.

    Raises:
        UnreadableEvent: as of `unwrap`.
    """
    is_exact = envelope.has_rounded_numbers and workflow.patched(_EXACT_NUMBERS)
    return unwrap(envelope, *event_classes, is_exact=is_exact)
