"""Delivers many events that were checked together, and says which of them were not accepted."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.client.handle import SagaHandle
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.errors import Unreachable
from orchestrator.event import DomainEvent
from orchestrator.protocol.envelope import Envelope

_AT_ONCE = 50
"""Events that are sent at once. Half of the requests that may be in flight, so that a single event that is published
meanwhile does not queue behind all of them."""
_SHOWN = 20
"""Ids in an error message at most."""

Handles = list[SagaHandle[Any]]
Deliver = Callable[[Sequence[AnyOrchestrator], DomainEvent, Envelope], Awaitable[Handles]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event that was checked, and who listens to it."""

    listeners: Sequence[AnyOrchestrator]
    event: DomainEvent
    envelope: Envelope


async def deliver_many(deliver: Deliver, outgoing: Sequence[Outgoing]) -> list[Handles]:
    """Deliver events in the order given. Those for partitions are all handed over at once: they travel together.

    Raises:
        PublishIncomplete, Unreachable: the server failed before all were accepted; the message says which were not.
    """
    places = asyncio.Semaphore(_AT_ONCE)

    async def deliver_one(one: Outgoing) -> Handles:
        if any(listener.partitions for listener in one.listeners):
            return await deliver(one.listeners, one.event, one.envelope)
        async with places:
            return await deliver(one.listeners, one.event, one.envelope)

    results = await asyncio.gather(*map(deliver_one, outgoing), return_exceptions=True)
    accepted: list[Handles] = []
    failed: list[tuple[str, BaseException]] = []
    for one, result in zip(outgoing, results, strict=True):
        if isinstance(result, BaseException):
            failed.append((one.envelope.event_id, result))
        else:
            accepted.append(result)
    if not failed:
        return accepted
    first = failed[0][1]
    if len(outgoing) > 1 and isinstance(first, Unreachable):
        shown = ", ".join(event_id for event_id, _ in failed[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
        raise Unreachable(
            f"{len(accepted)} of {len(outgoing)} events were accepted; Temporal did not confirm these: {shown}. "
            f"Publish all of them again with the same event ids: repeats are dropped. ({first})"
        ) from first
    raise first
