"""Finds the orchestrators that receive an event from an outbox."""

from uuid import UUID

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.envelope import Envelope, read, saga_id
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.store.outbox import OutboxRow, Target


class Unroutable(OrchestratorError):
    """An event that this process cannot route. Newer code may be able to."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


def route(row: OutboxRow, known: set[UUID], catalog: Catalog) -> tuple[Envelope, DomainEvent, list[AnyOrchestrator]]:
    """Read a row's event, and find the orchestrators that receive it.

    Args:
        row: the outbox row.
        known: ids of the sagas that exist, for rows that are sent only to listeners without a saga.
        catalog: the events and orchestrators that this process knows.

    Raises:
        Unroutable: no orchestrator here receives the event.
        UnreadableEvent: the envelope or the event's fields cannot be read.
    """
    envelope = read(row.envelope)
    event_class = catalog.events.get(envelope.event_type)
    listeners = list(catalog.listeners_of(envelope.event_type))
    if event_class is None:
        raise Unroutable("event.unknown_type", f"type: {envelope.event_type} is not an event type of this application")
    # Rows like the next two are written only by code with more listeners than this code has. That code is newer, so
    # its own relay must send them.
    if row.target is None and not listeners:
        raise Unroutable(
            "event.no_listener", f"no orchestrator here listens to {envelope.event_type}, but one did when it was sent"
        )
    if row.target == Target.MISSING and len(listeners) < 2:
        raise Unroutable(
            "event.no_listener", f"{envelope.event_type} had several listeners when it was sent, and has fewer here"
        )
    if row.target == Target.MISSING:
        listeners = [listener for listener in listeners if saga_id(listener.__name__, envelope.event_id) not in known]
    elif row.target == Target.REQUIRED and not listeners:
        raise Unroutable(
            "event.no_listener", f"no orchestrator listens to {envelope.event_type}, but the event requires a listener"
        )
    return envelope, unwrap(envelope, event_class), listeners
