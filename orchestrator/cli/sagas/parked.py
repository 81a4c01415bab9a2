"""Events that wait for a newer worker: nothing of them is in the database, so Temporal is asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from temporalio.client import Client

from orchestrator.cli.sagas.retry_reason import BlockedReason, reason_of
from orchestrator.protocol.names import own_workflow_id
from orchestrator.workflow.search_attributes import SAGA_STATUS

_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """One execution whose event only a newer worker can read."""

    event_id: str
    orchestrator: str
    workflow_id: str
    since: datetime
    why: str


async def parked_events(client: Client, *, orchestrator: str | None = None, limit: int = 20) -> Sequence[Parked]:
    """The newest of them.

    Raises:
        temporalio.service.RPCError: Temporal does not answer.
    """
    # An execution that has begun a saga says where it stands; one that waits for a newer worker has never said a word.
    query = f'ExecutionStatus = "Running" AND {SAGA_STATUS.name} IS NULL'
    if orchestrator is not None:
        query += f" AND WorkflowType = '{orchestrator.replace(chr(39), '')}'"
    silent = [
        (one.id.removeprefix(own), one)
        async for one in client.list_workflows(query)
        if one.id.startswith(own := own_workflow_id(one.workflow_type, ""))
    ]
    found: list[Parked] = []
    for start in range(0, len(silent), _AT_ONCE):
        some = silent[start : start + _AT_ONCE]
        reasons = await asyncio.gather(*(reason_of(client, one.id) for _, one in some))
        for (event_id, one), reason in zip(some, reasons, strict=True):
            if reason is not None and reason.kind is BlockedReason.PARKED:
                found.append(
                    Parked(
                        event_id=event_id,
                        orchestrator=one.workflow_type,
                        workflow_id=one.id,
                        since=one.start_time,
                        why=reason.sentence,
                    )
                )
        if len(found) >= limit:
            break
    return found[:limit]
