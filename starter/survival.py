"""The stunt: a worker killed in the middle of a saga, and what is known of the saga at that moment."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.client import Client

from orchestrator.protocol.commands import Phase, StepState
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step

_LOOK = 0.005


@dataclass(frozen=True, slots=True)
class Standing:
    """A saga that has begun and not ended."""

    event_id: str
    done: tuple[str, ...]
    """Names of the operations that are done, in order."""

    @property
    def money_is_on_its_way(self) -> bool:
        """It has left one account and not arrived in the other."""
        return "account.withdraw" in self.done and "account.deposit" not in self.done


async def standing(database: Database, event_ids: Sequence[str]) -> list[Standing]:
    """Those of these events' sagas that have a step done and are not finished, the most telling first."""
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
    found = [Standing(event_id, tuple(operations)) for event_id, operations in done.items()]
    return sorted(found, key=lambda one: (one.money_is_on_its_way, len(one.done)), reverse=True)


async def wait_for_money_on_its_way(database: Database, event_ids: Sequence[str], *, seconds: float) -> None:
    """Wait for the best moment to pull the plug; after `seconds` any moment will do."""
    try:
        async with asyncio.timeout(seconds):
            while not any(one.money_is_on_its_way for one in await standing(database, event_ids)):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        return


async def awaited(client: Client, workflow_id: str, saga_standing: Standing) -> str:
    """What has to happen before another worker can take this saga on, in words."""
    described = (await client.get_workflow_handle(workflow_id).describe()).raw_description
    for activity in described.pending_activities:
        if activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
            name, seconds = activity.activity_type.name, activity.activity_options.heartbeat_timeout.seconds
            lost = f"{name} was in the dead worker"
            if name == saga_standing.done[-1]:
                lost = f"{name} is done, but the dead worker never said so"
            return f"{lost}; {seconds} s of silence, then another worker may (8 s in all)"
    if described.pending_workflow_task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_STARTED:
        return "the dead worker was deciding what comes next; another one may after 5 s"
    return "what comes next was offered to the dead worker; others get it after 3 s"
