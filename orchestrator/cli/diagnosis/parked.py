"""Lists events that wait for a worker with newer code. They are known only to Temporal and not in the database."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from temporalio.client import Client

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, reason_of
from orchestrator.protocol.names import own_workflow_id
from orchestrator.workflow.search_attributes import SAGA_STATUS

_AT_ONCE = 20
"""For how many executions Temporal is asked at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An execution whose event only a newer worker can read."""

    event_id: str
    orchestrator: str
    workflow_id: str
    since: datetime
    why: str


async def parked_events(client: Client, *, orchestrator: str | None = None, limit: int = 20) -> Sequence[Parked]:
    """Return the newest parked events.

    Raises:
        temporalio.service.RPCError: Temporal does not answer, or refuses the request.
    """
    # A saga that has begun sets the search attribute; an execution whose event is parked has never set it.
    query = f'ExecutionStatus = "Running" AND {SAGA_STATUS.name} IS NULL'
    if orchestrator is not None:
        query += f" AND WorkflowType = '{orchestrator.replace(chr(39), '')}'"
    not_begun = [
        (execution.id.removeprefix(own), execution)
        async for execution in client.list_workflows(query)
        if execution.id.startswith(own := own_workflow_id(execution.workflow_type, ""))
    ]
    parked: list[Parked] = []
    for start in range(0, len(not_begun), _AT_ONCE):
        batch = not_begun[start : start + _AT_ONCE]
        reasons = await asyncio.gather(*(reason_of(client, execution.id) for _, execution in batch))
        for (event_id, execution), reason in zip(batch, reasons, strict=True):
            if reason is not None and reason.kind is BlockedReason.PARKED:
                parked.append(
                    Parked(
                        event_id=event_id,
                        orchestrator=execution.workflow_type,
                        workflow_id=execution.id,
                        since=execution.start_time,
                        why=reason.sentence,
                    )
                )
        if len(parked) >= limit:
            break
    return parked[:limit]
