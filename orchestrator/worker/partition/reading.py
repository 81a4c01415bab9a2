"""Reads the events of a wave: from the messages, or from the sagas' rows if the sagas are already open."""

import logging
from collections.abc import Sequence

from sqlalchemy import select

from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.protocol import names
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read, read_received, saga_id
from orchestrator.protocol.messages.unwrapping import id_reused, unwrap
from orchestrator.protocol.wave import PostponedItem, PostponeReason, WaveCommand, WaveItem
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.worker.partition.items import (
    EnvelopeItem,
    EventItem,
    OwnExecutionNeeded,
    Rejected,
    Results,
)

_log = logging.getLogger(__name__)


async def read_events(
    database: Database,
    orchestrator: AnyOrchestrator,
    command: WaveCommand,
    messages: Sequence[bytes],
    results: Results,
) -> list[EventItem]:
    """Read the events of a wave. Items that cannot be driven here are added to the results.

    Args:
        database: the home database.
        orchestrator: the orchestrator of the wave's sagas.
        command: the items of the wave.
        messages: the messages of the items that are not open yet, in the same order.
        results: the results of the wave.
    """
    recorded = await _recorded_events(
        database, orchestrator, [item.event_id for item in command.items if item.event_id]
    )
    readable: list[EventItem] = []
    events: dict[str, DomainEvent] = {}
    remaining = iter(messages)
    for index, item in enumerate(command.items):
        is_open = item.event_id is not None
        raw = recorded.get(item.event_id, b"") if item.event_id else next(remaining)
        if raw is None:
            continue  # another driver finished the saga, and it has been purged since
        if not raw and item.source == names.WAKE_SIGNAL:
            continue  # the wake signal refers to no saga
        envelope = None
        try:
            envelope = _read_envelope(item, raw)
            event = unwrap(envelope, *orchestrator.requests, is_exact=not is_open)
            first = events.setdefault(envelope.event_id, event)
            if first is event:
                readable.append(EventItem(index, item, envelope, is_open, event))
            elif first != event:
                raise id_reused(envelope.event_id)
        except UnreadableEvent as fault:
            if envelope is not None and fault.is_newer:
                # The saga's own execution waits for a newer worker. The partition may stay with this one for days.
                results.add(OwnExecutionNeeded(EnvelopeItem(index, item, envelope, is_open), str(fault)))
            elif is_open and raw:  # accepted and begun by a worker that could read it
                _log.warning("the event %s cannot be read here and waits for another worker: %s", item.event_id, fault)
                results.add(PostponedItem(index=index, why=PostponeReason.UNREADABLE, event_id=item.event_id))
            else:
                results.add(Rejected(item.message(raw), fault))
    return readable


def _read_envelope(item: WaveItem, raw: bytes) -> Envelope:
    if item.event_id is None:
        return read_received(item.source, raw)
    if not raw:
        raise UnreadableEvent("event.missing", f"{item.event_id}: its saga's row is gone")
    return read(raw)


async def _recorded_events(
    database: Database, orchestrator: AnyOrchestrator, event_ids: Sequence[str]
) -> dict[str | None, bytes | None]:
    """Return the recorded events, keyed by event id; the value is None if the event has been purged."""
    if not event_ids:
        return {}
    ids = [saga_id(orchestrator.__name__, event_id) for event_id in event_ids]
    async with database.reading() as connection:
        rows = await connection.execute(
            select(saga.c.event_id, saga.c.envelope, saga.c.purged_at).where(saga.c.id.in_(ids))
        )
        return {row.event_id: None if row.purged_at else row.envelope.encode() for row in rows}
