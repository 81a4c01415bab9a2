"""Delivers an outbox event to one listener as the event bus does, by signal-with-start or through its partition."""

from typing import Protocol

from temporalio.client import Client

from orchestrator.client.executions.own_execution import ensure_own_execution
from orchestrator.client.publishing.partitions import PartitionSender, partition_of
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.envelope import Envelope


class Deliver(Protocol):
    """Delivers an event to a listener. A call returns when the listener has accepted the event, and may be repeated."""

    async def __call__(self, listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope, /) -> None:
        """Deliver an event.

        Raises:
            Exception: the server did not confirm that the event was accepted; it may have been.
        """
        ...


class Delivery:
    """Implements `Deliver` with Temporal.

    Args:
        client: a connection to Temporal.
        task_queue: the task queue of the workers.
    """

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self._partitions = PartitionSender(client, task_queue)

    async def __call__(self, listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> None:
        """Deliver an event."""
        if listener.partitions is None:
            await ensure_own_execution(self._client, listener.__name__, envelope, self._task_queue)
        else:
            await self._partitions.send(listener.__name__, partition_of(listener, event, envelope), envelope)
