"""Sagas that a killed worker has interrupted: which ones, how far they are, and what Temporal is waiting for."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.client import Client

from orchestrator.protocol.commands import Phase, StepState
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step

_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class UnfinishedSaga:
    """A saga that has begun and not ended."""

    event_id: str
    done: tuple[str, ...]
    """Names of the operations that are done, in order."""

    @property
    def has_money_in_transit(self) -> bool:
        """Whether money has left one account and not arrived in the other."""
        return "account.withdraw" in self.done and "account.deposit" not in self.done


async def unfinished_sagas(database: Database, event_ids: Sequence[str]) -> list[UnfinishedSaga]:
    """Return those of these events' sagas that have done a step and not ended, the ones with money in transit first."""
    statement = (
        select(saga.c.event_id, saga_step.c.operation)
        .join(saga_step, saga_step.c.saga_id == saga.c.id)
        .where(
            saga.c.event_id.in_(event_ids),
            saga.c.phase == Phase.FORWARD.value,
            saga_step.c.state == StepState.DONE.value,
        )
        .order_by(saga.c.event_id, saga_step.c.number)
    )
    done: dict[str, list[str]] = {}
    async with database.reading() as connection:
        for event_id, operation in await connection.execute(statement):
            done.setdefault(event_id, []).append(operation)
    sagas = [UnfinishedSaga(event_id, tuple(operations)) for event_id, operations in done.items()]
    return sorted(sagas, key=lambda unfinished: (unfinished.has_money_in_transit, len(unfinished.done)), reverse=True)


async def wait_for_money_in_transit(database: Database, event_ids: Sequence[str], *, seconds: float) -> None:
    """Wait until a saga has money in transit, which is the worst moment to kill its worker, or until the time is up."""
    try:
        async with asyncio.timeout(seconds):
            while not any(one.has_money_in_transit for one in await unfinished_sagas(database, event_ids)):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return


async def describe_wait(client: Client, workflow_id: str, interrupted: UnfinishedSaga) -> str:
    """Describe what has to happen before another worker can continue this saga."""
    described = (await client.get_workflow_handle(workflow_id).describe()).raw_description
    for activity in described.pending_activities:
        if activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
            name, seconds = activity.activity_type.name, activity.activity_options.heartbeat_timeout.seconds
            lost = f"{name} was running in the dead worker"
            if name == interrupted.done[-1]:
                lost = f"{name} is done, but the dead worker never reported it"
            return f"{lost}; after {seconds} s without a heartbeat another worker may run it (8 s in all)"
    if described.pending_workflow_task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED:
        return "the dead worker was running a workflow task; another worker gets it after 5 s"
    return "the next workflow task was offered to the dead worker; another worker gets it after 3 s"
