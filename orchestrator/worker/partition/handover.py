"""Starts own executions for the sagas that a wave cannot settle, and hands these sagas over to them."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, update
from temporalio.client import Client

from orchestrator.client.executions.own_execution import OwnExecution, ensure_own_execution
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.protocol.names import own_workflow_id
from orchestrator.protocol.wave import PostponedItem, PostponeReason
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.partition.items import OwnExecutionNeeded

_log = logging.getLogger(__name__)

_OWN_AT_ONCE = 10
"""The maximum number of executions that one wave starts, because a bug that affects every saga must not start thousands
of them together."""
_HAND_OVER = (
    update(saga)
    .where(
        saga.c.id == bindparam("key"),
        saga.c.owner_workflow_id == bindparam("partition"),
        saga.c.phase.in_((Phase.FORWARD.value, Phase.UNDOING.value)),
    )
    .values(owner_workflow_id=bindparam("own"), owner_first_run_id=bindparam("run"))
)


class OwnExecutions:
    """Starts own executions for the sagas of a partition.

    Args:
        client: a connection to Temporal.
        task_queue: the task queue on which the executions run.
        databases: the databases.
        orchestrator: the name of the sagas' orchestrator.
        partition: the workflow id of the partition.
    """

    def __init__(
        self, client: Client, task_queue: str, databases: Databases, orchestrator: str, partition: str
    ) -> None:
        self._client = client
        self._task_queue = task_queue
        self._database = databases.home
        self._faults = fault_log_of(databases)
        self._orchestrator = orchestrator
        self._partition = partition

    async def start(self, needed: Sequence[OwnExecutionNeeded]) -> list[PostponedItem]:
        """Make sure that each saga has its own execution. Return the sagas without one as postponed items."""
        postponed = [need.item.postponed(PostponeReason.LOST) for need in needed[_OWN_AT_ONCE:]]
        started = await asyncio.gather(*(self._start_one(need) for need in needed[:_OWN_AT_ONCE]))
        return [*postponed, *(item for item in started if item is not None)]

    async def _start_one(self, need: OwnExecutionNeeded) -> PostponedItem | None:
        envelope = need.item.envelope
        try:
            execution = await ensure_own_execution(self._client, self._orchestrator, envelope, self._task_queue)
            if need.item.is_open:
                await self._hand_over(saga_id(self._orchestrator, envelope.event_id), execution)
        except Exception as fault:
            workflow_id = own_workflow_id(self._orchestrator, envelope.event_id)
            self._faults.failed(f"starting the saga's own execution {workflow_id} failed", fault)
            return need.item.postponed(PostponeReason.LOST)
        _log.info("the event %s has its own execution now (%s)", envelope.event_id, need.why)
        return None

    async def _hand_over(self, key: UUID, execution: OwnExecution) -> None:
        """Record the saga's new owner, because recovery would otherwise ignore the saga while the partition runs."""
        values = {"key": key, "own": execution.workflow_id, "run": execution.run_id or "", "partition": self._partition}
        async with self._database.transaction() as connection:
            await connection.execute(_HAND_OVER, values)
