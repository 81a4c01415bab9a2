"""Publishing into partitions: events that are published within a moment of each other travel in one signal."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy

from orchestrator.client.in_flight import request_slot
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.protocol.envelope import Envelope
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.protocol.names import EVENT_SIGNAL, partition_for
from orchestrator.workflow.own_execution import raw_json

GATHERED = 0.004
"""Seconds that the first event waits for others."""
_SIGNAL_EVENTS = 50
_SIGNAL_BYTES = 512 * 1024
_TASK_TIMEOUT = timedelta(seconds=5)


def partition_of(orchestrator: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> str:
    """Id of the partition that carries an event: by its ordering key, else by its id."""
    ordering_key = lock_keys_of(orchestrator, event).ordering_key
    return partition_for(orchestrator.__name__, ordering_key or envelope.event_id, orchestrator.partitions or 1)


@dataclass(slots=True)
class _Gathered:
    """Events for one partition that wait for the next signal, in the order of publishing."""

    orchestrator: str
    events: list[tuple[Envelope, "asyncio.Future[str | None]"]] = field(
        default_factory=list[tuple[Envelope, "asyncio.Future[str | None]"]]
    )
    under_way: list[tuple[Envelope, "asyncio.Future[str | None]"]] = field(
        default_factory=list[tuple[Envelope, "asyncio.Future[str | None]"]]
    )
    """Of the signal that is being sent."""


class PartitionSender:
    """Sends events to partitions, in the order in which they were given for each, with one signal at a time under way.

    Args:
        client: a connection.
        task_queue: the workers'.
    """

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self._gathered: dict[str, _Gathered] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, orchestrator: str, workflow_id: str, envelope: Envelope) -> str | None:
        """Send an event, with those for the same partition that are given meanwhile.

        Returns:
            Id of the run that took it.

        Raises:
            temporalio.service.RPCError: the server did not say that it took it.
        """
        taken: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        waiting = self._gathered.get(workflow_id)
        if waiting is None:
            sent = waiting = self._gathered[workflow_id] = _Gathered(orchestrator)
            task = asyncio.create_task(self._send_all(workflow_id, waiting))
            self._sending.add(task)
            task.add_done_callback(lambda ended: self._end(ended, workflow_id, sent))
        waiting.events.append((envelope, taken))
        return await taken

    async def _send_all(self, workflow_id: str, waiting: _Gathered) -> None:
        await asyncio.sleep(GATHERED)
        while waiting.events:
            together = waiting.under_way = _together(waiting.events)
            del waiting.events[: len(together)]
            try:
                run_id = await self.signal(waiting.orchestrator, workflow_id, [envelope for envelope, _ in together])
            except Exception as fault:
                for _, taken in together:
                    if not taken.done():
                        taken.set_exception(fault)
            else:
                for _, taken in together:
                    if not taken.done():
                        taken.set_result(run_id)
        del self._gathered[workflow_id]

    def _end(self, ended: "asyncio.Task[None]", workflow_id: str, sent: _Gathered) -> None:
        """If it was cut off, nobody may be left waiting, nor the next event find a sender that has ended."""
        self._sending.discard(ended)
        if self._gathered.get(workflow_id) is sent:
            del self._gathered[workflow_id]
        for _, taken in [*sent.under_way, *sent.events]:
            taken.cancel()

    async def signal(self, orchestrator: str, workflow_id: str, envelopes: list[Envelope]) -> str | None:
        """Send these in one signal, starting the partition if it does not run.

        Raises:
            temporalio.service.RPCError: the server did not say that it took them.
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


def _together(
    events: list[tuple[Envelope, "asyncio.Future[str | None]"]],
) -> list[tuple[Envelope, "asyncio.Future[str | None]"]]:
    taken, size = 0, 0
    for envelope, _ in events[:_SIGNAL_EVENTS]:
        size += len(envelope.text)
        if taken and size > _SIGNAL_BYTES:
            break
        taken += 1
    return events[:taken]
