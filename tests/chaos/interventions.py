"""What people do during the run: cancel sagas, and terminate and reset executions."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from uuid import UUID, uuid4

from sqlalchemy import exists, func, select
from sqlalchemy.exc import SQLAlchemyError
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.client.executions.own_execution import ensure_own_execution
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import read
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.intervention import cancel_saga
from tests.chaos.plan import Act, Fault, Target

AWAY = (SQLAlchemyError, OSError, RPCError, TimeoutError)
"""The errors that a part raises while it is down."""
_TRIES = 40
_RETRY_INTERVAL = 0.25
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class SagaInProgress:
    """A saga that goes forward and has at least one step."""

    id: UUID
    orchestrator: str
    envelope: str
    driver: str
    """The workflow id of the execution that drives it."""

    @property
    def is_own(self) -> bool:
        """Whether the saga's own execution drives it."""
        return self.driver == own_workflow_id(self.orchestrator, read(self.envelope).event_id)


class Interventions:
    """Finds sagas in progress and interferes with them.

    Args:
        client: a Temporal client.
        database: the bank's home database.
        task_queue: the workers' task queue.
        random: chooses the sagas.
    """

    def __init__(self, client: Client, database: Database, task_queue: str, random: Random) -> None:
        self.hits: Counter[tuple[Act, Target]] = Counter()
        self.cancels = 0
        self.terminated: defaultdict[str, list[datetime]] = defaultdict(list)
        """When each execution was terminated."""
        self._client = client
        self._database = database
        self._task_queue = task_queue
        self._random = random

    async def do(self, fault: Fault) -> None:
        """Terminate or reset an execution; try again with another one if it has just ended or a part is down."""
        for _ in range(_TRIES):
            try:
                async with asyncio.timeout(_TIMEOUT):
                    victim = await self._pick(fault.target)
                    if victim is not None:
                        await (self._terminate if fault.act is Act.TERMINATE else self._reset)(victim)
                        self.hits[fault.act, fault.target] += 1
                        return
            except AWAY:
                pass
            await asyncio.sleep(_RETRY_INTERVAL)

    async def cancel(self, part: float) -> None:
        """Cancel sagas until this share of all is cancelled, in the database or through their executions."""
        async with asyncio.timeout(_TIMEOUT):
            candidates = await self._sagas_in_progress()
            missing = int(part * await self._count()) - await self._cancelled()
            for victim in self._random.sample(candidates, k=min(len(candidates), max(missing, 0))):
                if victim.is_own and self._random.random() < 0.5:
                    await self._client.get_workflow_handle(victim.driver).cancel()
                else:
                    await cancel_saga(self._database, victim.id, by="chaos")
                    if not victim.is_own:
                        await self._drive_beside(victim)
                self.cancels += 1

    async def _drive_beside(self, victim: SagaInProgress) -> None:
        """Start the saga's own execution to undo it at once, as the command line does for a saga in a partition."""
        envelope = read(victim.envelope)
        await ensure_own_execution(
            self._client, victim.orchestrator, envelope, self._task_queue, although_completed=True
        )

    async def _pick(self, target: Target) -> str | None:
        candidates = await self._sagas_in_progress()
        if target is Target.SAGA:
            driven_by = sorted(saga.driver for saga in candidates if saga.is_own)
        else:
            driven_by = sorted({saga.driver for saga in candidates if not saga.is_own})
        return self._random.choice(driven_by) if driven_by else None

    async def _sagas_in_progress(self) -> list[SagaInProgress]:
        begun = exists().where(saga_step.c.saga_id == saga.c.id)
        columns = (saga.c.id, saga.c.orchestrator, saga.c.envelope, saga.c.owner_workflow_id)
        statement = select(*columns).where(saga.c.phase == Phase.FORWARD.value, saga.c.pivot_step.is_(None), begun)
        async with self._database.reading() as connection:
            rows = await connection.execute(statement.order_by(saga.c.id))
            return [SagaInProgress(row.id, row.orchestrator, row.envelope, row.owner_workflow_id or "") for row in rows]

    async def _count(self) -> int:
        async with self._database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(saga)) or 0

    async def _cancelled(self) -> int:
        statement = select(func.count()).select_from(saga).where(saga.c.reason == Phase.CANCELLED.value)
        async with self._database.reading() as connection:
            return await connection.scalar(statement) or 0

    async def _terminate(self, workflow_id: str) -> None:
        self.terminated[workflow_id].append(datetime.now(UTC))
        await self._client.get_workflow_handle(workflow_id).terminate(reason="chaos")

    async def _reset(self, workflow_id: str) -> None:
        """Reset the execution to its beginning."""
        handle = self._client.get_workflow_handle(workflow_id)
        async for event in handle.fetch_history_events():
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                await self._client.workflow_service.reset_workflow_execution(
                    ResetWorkflowExecutionRequest(
                        namespace=self._client.namespace,
                        workflow_execution=WorkflowExecution(workflow_id=workflow_id),
                        reason="chaos",
                        workflow_task_finish_event_id=event.event_id,
                        request_id=str(uuid4()),
                    )
                )
                return


async def until_answered(work: Callable[[], Awaitable[None]]) -> None:
    """Do something once; do nothing if a part is down."""
    try:
        await work()
    except AWAY:
        return
