"""Delivers checked events to their listeners, and reports which of them were not accepted."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from temporalio.service import RPCError

from orchestrator.client.handle import SagaHandle
from orchestrator.client.publishing.event_checks import Addressed
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.errors import PublishIncomplete, Unreachable
from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.envelope import Envelope

_AT_ONCE = 50
"""How many events are sent concurrently: half of the requests that may be in flight, so that a single event that is
published meanwhile does not queue behind all of them."""
_SHOWN = 20
"""How many ids an error message shows at most."""

Handles = list[SagaHandle[Any]]
Send = Callable[[AnyOrchestrator, DomainEvent | None, Envelope], Awaitable[SagaHandle[Any]]]
"""Sends an event to one listener."""


async def deliver(send: Send, addressed: Addressed) -> Handles:
    """Deliver an event to all of its listeners.

    Raises:
        EventRejected: the event's id was used for other content.
        PublishIncomplete: the server failed after some of the listeners had accepted the event.
        Unreachable: the server could not be reached, and no listener is known to have accepted the event.
    """
    listeners, event, envelope = addressed.listeners, addressed.event, addressed.envelope
    accepted: Handles = []
    not_accepted: list[str] = []
    faults: list[BaseException] = []
    # Concurrently: if this waited for one listener first, a later event could reach the next listener earlier.
    sending = (send(listener, event, envelope) for listener in listeners)
    for listener, result in zip(listeners, await asyncio.gather(*sending, return_exceptions=True), strict=True):
        if isinstance(result, BaseException):
            not_accepted.append(listener.__name__)
            faults.append(result)
        else:
            accepted.append(result)
    for fault in faults:
        if not isinstance(fault, RPCError):
            raise fault
        if accepted:
            raise PublishIncomplete([handle.orchestrator.__name__ for handle in accepted], not_accepted) from fault
        raise unconfirmed(envelope, fault, "Publish") from fault
    for handle in accepted:
        if handle.is_repeat:
            await handle.outcome()  # ended, so this returns immediately; raises if this id was used for other content
    return accepted


async def deliver_many(send: Send, events: Sequence[Addressed]) -> list[Handles]:
    """Deliver events in order. Those for partitions are all passed on immediately, so that they can share signals.

    Raises:
        PublishIncomplete, Unreachable: the server failed before all events were accepted; the message names those that
            were not.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def deliver_one(addressed: Addressed) -> Handles:
        if any(listener.partitions for listener in addressed.listeners):
            return await deliver(send, addressed)
        async with slots:
            return await deliver(send, addressed)

    results = await asyncio.gather(*map(deliver_one, events), return_exceptions=True)
    accepted: list[Handles] = []
    failed: list[tuple[str, BaseException]] = []
    for addressed, result in zip(events, results, strict=True):
        if isinstance(result, BaseException):
            failed.append((addressed.envelope.event_id, result))
        else:
            accepted.append(result)
    if not failed:
        return accepted
    first = failed[0][1]
    if len(events) > 1 and isinstance(first, Unreachable):
        shown = ", ".join(event_id for event_id, _ in failed[:_SHOWN]) + (", ..." if len(failed) > _SHOWN else "")
        raise Unreachable(
            f"{len(accepted)} of {len(events)} events were accepted; Temporal did not confirm these: {shown}. "
            f"Publish all of them again with the same event ids; repeats are dropped. ({first})"
        ) from first
    raise first


def unconfirmed(envelope: Envelope, fault: RPCError, verb: str) -> Unreachable:
    """Return the error for an event that the server may or may not have accepted; `verb` says how to send it again."""
    return Unreachable(
        f"Temporal did not confirm the event {envelope.event_id} ({fault.message}). {verb} it again with the same "
        "event id; if it was accepted after all, the repeat is dropped."
    )
