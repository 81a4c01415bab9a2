"""The activity that publishes a scheduled event."""

from collections.abc import Awaitable, Callable
from datetime import datetime

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from orchestrator.definition.catalog import Catalog
from orchestrator.event import NotScheduled
from orchestrator.worker.relay.publish import bus_of
from orchestrator.workflow.system.scheduled import PUBLISH_SCHEDULED, ScheduledEvent


def publish_activity(client: Client, catalog: Catalog, task_queue: str) -> Callable[..., Awaitable[str]]:
    """Return the activity, which publishes over the worker's own connection."""
    bus = bus_of(client, catalog, task_queue, source="orchestrator/schedule")

    @activity.defn(name=PUBLISH_SCHEDULED)
    async def publish(scheduled: ScheduledEvent, at: str) -> str:
        moment = datetime.fromisoformat(at)
        event_class = catalog.events.get(scheduled.event_type)
        if event_class is None:
            # Retried, because a worker with newer code may know the event.
            raise ApplicationError(
                f"The event type {scheduled.event_type} is unknown to this worker's code. Start a worker that has it",
                type="UnknownEvent",
            )
        try:
            event_id, event = event_class.scheduled(moment, scheduled.arguments)
        except (NotScheduled, LookupError, ValueError) as fault:
            raise ApplicationError(
                f"This schedule does not fit the event type {scheduled.event_type}: {fault!r}. Create it again",
                type="WrongSchedule",
                non_retryable=True,
            ) from fault
        await bus.publish(event, event_id=event_id, time=moment)
        return event_id

    return publish
