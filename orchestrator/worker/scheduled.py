"""The activity that publishes what a schedule is for."""

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
    """Publishes on the worker's own connection."""
    bus = bus_of(client, catalog, task_queue, source="orchestrator/schedule")

    @activity.defn(name=PUBLISH_SCHEDULED)
    async def publish(wanted: ScheduledEvent, at: str) -> str:
        moment = datetime.fromisoformat(at)
        event_class = catalog.events.get(wanted.event_type)
        if event_class is None:
            # Not final: a worker with newer code may know it.
            raise ApplicationError(f"this worker's code has no event {wanted.event_type}", type="UnknownEvent")
        try:
            event_id, event = event_class.scheduled(moment, wanted.arguments)
        except (NotScheduled, LookupError, ValueError) as fault:
            raise ApplicationError(
                f"{wanted.event_type}: {fault!r}: make the schedule again", type="WrongSchedule", non_retryable=True
            ) from fault
        await bus.publish(event, event_id=event_id, time=moment)
        return event_id

    return publish
