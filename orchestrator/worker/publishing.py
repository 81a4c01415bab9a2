"""The activity that publishes a message, whatever it is: to who listens, or among the dead letters."""

from collections.abc import Awaitable, Callable

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from orchestrator.catalog import Catalog
from orchestrator.client.bus import EventBus
from orchestrator.errors import EventRejected
from orchestrator.store.database import Database
from orchestrator.store.dead_letters import keep_letter
from orchestrator.workflow.publishing import PUBLISH_EVENT, PUBLISH_EVENT_WORKFLOW, Taken


def message_activity(
    client: Client, catalog: Catalog, database: Database, task_queue: str
) -> Callable[..., Awaitable[Taken]]:
    """Publishes on the worker's own connection."""
    bus = EventBus(client, catalog, task_queue=task_queue, source="orchestrator/publish-event")

    @activity.defn(name=PUBLISH_EVENT)
    async def publish(door: str, position: int, message: RawValue) -> Taken:
        info = activity.info()
        if info.workflow_type != PUBLISH_EVENT_WORKFLOW:
            raise ApplicationError(
                f"only {PUBLISH_EVENT_WORKFLOW} publishes so", type="saga.required", non_retryable=True
            )
        raw = message.payload.data
        try:
            handles = await bus.publish_envelope(raw)
        except EventRejected as fault:
            number = await keep_letter(
                database,
                door=door,
                workflow_id=info.workflow_id or "",
                run_id=info.workflow_run_id or "",
                position=position,
                code=fault.code,
                reason=fault.message,
                raw=raw,
            )
            return Taken(letter=number, code=fault.code, reason=fault.message)
        return Taken(event_id=handles[0].event_id, orchestrators=tuple(one.orchestrator.__name__ for one in handles))

    return publish
