"""The worker's own event bus, and the activity that publishes a message or stores it as a dead letter."""

from collections.abc import Awaitable, Callable

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from orchestrator.client.bus import EventBus
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import EventRejected
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.workflow.system.publish import PUBLISH_EVENT, PublishReply


def bus_of(client: Client, catalog: Catalog, task_queue: str, *, source: str) -> EventBus:
    """Return an event bus on a worker's connection.

    The bus has its own data converter, because the worker's converter would not decode outcomes.
    """
    config = client.config()
    config["data_converter"] = pydantic_data_converter
    return EventBus(Client(**config), catalog, task_queue=task_queue, source=source)


def message_activity(
    client: Client, catalog: Catalog, database: Database, task_queue: str
) -> Callable[..., Awaitable[PublishReply]]:
    """Return the activity, which publishes over the worker's own connection."""
    bus = bus_of(client, catalog, task_queue, source="orchestrator/publish-event")

    @activity.defn(name=PUBLISH_EVENT)
    async def publish(source: str, position: int, message: RawValue) -> PublishReply:
        info = activity.info()
        if info.workflow_type != PUBLISH_EVENT_WORKFLOW:
            raise ApplicationError(
                f"The activity {PUBLISH_EVENT} runs only in the workflow {PUBLISH_EVENT_WORKFLOW}. Start that workflow",
                type="saga.required",
                non_retryable=True,
            )
        raw = message.payload.data
        try:
            handles = await bus.publish_envelope(raw)
        except EventRejected as fault:
            letter = DeadLetter(
                Inbound(source, position, raw),
                fault.code,
                fault.message,
                workflow_id=info.workflow_id or "",
                run_id=info.workflow_run_id or "",
            )
            number = await store_dead_letter(database, letter)
            return PublishReply(dead_letter=number, code=fault.code, reason=fault.message)
        listeners = tuple(handle.orchestrator.__name__ for handle in handles)
        return PublishReply(event_id=handles[0].event_id, orchestrators=listeners)

    return publish
