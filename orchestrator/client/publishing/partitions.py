"""Publishes events to partitions; events that are published within a few milliseconds share one signal."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy

from orchestrator.client.in_flight import request_slot
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.names import EVENT_SIGNAL, partition_for
from orchestrator.workflow.own_execution import raw_json

GATHERED = 0.004
"""Seconds that the first event waits for others to share its signal."""
_SIGNAL_EVENTS = 50
_SIGNAL_BYTES = 512 * 1024
_TASK_TIMEOUT = timedelta(seconds=5)


def partition_of(orchestrator: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> str:
    """Return the id of the partition for an event, chosen by its ordering key or, without one, by its id."""
    ordering_key = lock_keys_of(orchestrator, event).ordering_key
    return partition_for(orchestrator.__name__, ordering_key or envelope.event_id, orchestrator.partitions or 1)


@dataclass(frozen=True, slots=True, eq=False)
class _PendingEvent:
    """An event that has been published and not confirmed yet."""

    envelope: Envelope
    confirmed: "asyncio.Future[str | None]"
    """The id of the run that accepted the event."""


@dataclass(slots=True)
class _Queue:
    """The unconfirmed events of one partition, in the order of publishing."""

    orchestrator: str
    waiting: list[_PendingEvent] = field(default_factory=list[_PendingEvent])
    """The events for later signals."""
    in_flight: list[_PendingEvent] = field(default_factory=list[_PendingEvent])
    """The events of the signal that is being sent."""


class PartitionSender:
    """Sends events to partitions. Each partition gets its events in order, with one signal in flight at a time.

    Args:
        client: a connection to Temporal.
        task_queue: the workers' task queue.
    """

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self._queues: dict[str, _Queue] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, orchestrator: str, workflow_id: str, envelope: Envelope) -> str | None:
        """Send an event, in one signal with other events that are published for the same partition meanwhile.

        Returns:
            The id of the run that accepted the event.

        Raises:
            temporalio.service.RPCError: the server did not confirm the event.
        """
        event = _PendingEvent(envelope, asyncio.get_running_loop().create_future())
        queue = self._queues.get(workflow_id)
        if queue is None:
            new_queue = queue = self._queues[workflow_id] = _Queue(orchestrator)
            task = asyncio.create_task(self._send_all(workflow_id, queue))
            self._sending.add(task)
            task.add_done_callback(lambda ended: self._end(ended, workflow_id, new_queue))
        queue.waiting.append(event)
        return await event.confirmed

    async def _send_all(self, workflow_id: str, queue: _Queue) -> None:
        await asyncio.sleep(GATHERED)
        while queue.waiting:
            batch = queue.in_flight = _next_batch(queue.waiting)
            del queue.waiting[: len(batch)]
            try:
                run_id = await self.signal(queue.orchestrator, workflow_id, [event.envelope for event in batch])
            except Exception as fault:
                for event in batch:
                    if not event.confirmed.done():
                        event.confirmed.set_exception(fault)
            else:
                for event in batch:
                    if not event.confirmed.done():
                        event.confirmed.set_result(run_id)
        del self._queues[workflow_id]

    def _end(self, ended: "asyncio.Task[None]", workflow_id: str, queue: _Queue) -> None:
        """Clean up after a sending task. If it was cancelled, cancel its callers; the next event starts a new task."""
        self._sending.discard(ended)
        if self._queues.get(workflow_id) is queue:
            del self._queues[workflow_id]
        for event in [*queue.in_flight, *queue.waiting]:
            event.confirmed.cancel()

    async def signal(self, orchestrator: str, workflow_id: str, envelopes: list[Envelope]) -> str | None:
        """Send these events in one signal, and start the partition if it is not running.

        Raises:
            temporalio.service.RPCError: the server did not confirm the signal.
        """
        async with request_slot():
            handle = await self._client.start_workflow(
                orchestrator,
                id=workflow_id,
                task_queue=self._task_queue,
                start_signal=EVENT_SIGNAL,
                start_signal_args=[raw_json(envelope.text.encode()) for envelope in envelopes],
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                task_timeout=_TASK_TIMEOUT,
                static_summary=f"a partition of {orchestrator}",
            )
        return handle.result_run_id


def _next_batch(events: list[_PendingEvent]) -> list[_PendingEvent]:
    count, size = 0, 0
    for event in events[:_SIGNAL_EVENTS]:
        size += len(event.envelope.text)
        if count and size > _SIGNAL_BYTES:
            break
        count += 1
    return events[:count]
