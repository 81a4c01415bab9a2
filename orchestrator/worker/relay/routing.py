"""Who is to have an event that waits in an outbox."""

from uuid import UUID

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.event import DomainEvent
from orchestrator.protocol.envelope import Envelope, read, saga_id
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.store.outbox import OutboxRow, Target


class Unroutable(OrchestratorError):
    """An event that nobody takes here. Newer code may."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


def route(row: OutboxRow, known: set[UUID], catalog: Catalog) -> tuple[Envelope, DomainEvent, list[AnyOrchestrator]]:
    """Read a row's event, and find the orchestrators that are to have it.

    Args:
        row: the row.
        known: sagas that are there, where the event is for listeners without one.
        catalog: what this process knows.

    Raises:
        Unroutable: nobody here takes it.
        UnreadableEvent: its envelope or its fields cannot be read.
    """
    envelope = read(row.envelope)
    event_class = catalog.events.get(envelope.event_type)
    listeners = list(catalog.listeners_of(envelope.event_type))
    if event_class is None:
        raise Unroutable("event.unknown_type", f"type: {envelope.event_type} is no event here")
    # Both are written only where there are more: by newer code than this, and its own relay has to send it.
    if row.target is None and not listeners:
        raise Unroutable("event.no_listener", f"nobody here listens to {envelope.event_type}, and somebody did")
    if row.target == Target.MISSING and len(listeners) < 2:
        raise Unroutable("event.no_listener", f"{envelope.event_type} had several listeners, and has fewer here")
    if row.target == Target.MISSING:
        listeners = [one for one in listeners if saga_id(one.__name__, envelope.event_id) not in known]
    elif row.target == Target.REQUIRED and not listeners:
        raise Unroutable("event.no_listener", f"nobody listens to {envelope.event_type}, and somebody is to")
    return envelope, unwrap(envelope, event_class), listeners
