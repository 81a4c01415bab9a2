"""Delivery: an event to one listener, as the event bus sends it: signal-with-start, partitions gathered."""

from typing import Protocol

from temporalio.client import Client

from orchestrator.client.own_execution import ensure_own_execution
from orchestrator.client.partitions import PartitionSender, partition_of
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.protocol.envelope import Envelope


class Deliver(Protocol):
    """Takes an event to a listener. That it returned means that the event is accepted there; repeats do no harm."""

    async def __call__(self, listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope, /) -> None:
        """Deliver.

        Raises:
            Exception: nobody said that the event was taken; it may have been.
        """
        ...


class Delivery:
    """`Deliver` by Temporal.

    Args:
        client: a connection.
        task_queue: the workers'.
    """

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self._partitions = PartitionSender(client, task_queue)

    async def __call__(self, listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> None:
        """Deliver."""
        if listener.partitions is None:
            await ensure_own_execution(self._client, listener.__name__, envelope, self._task_queue)
        else:
            await self._partitions.send(listener.__name__, partition_of(listener, event, envelope), envelope)
