"""Events by the calendar: what a Temporal schedule starts, since a schedule can start a workflow and signal none.

The event's class says which event is due, and under which id: firing twice, late, or by hand publishes one event.
"""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, JsonValue
from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey

PUBLISH_SCHEDULED = "saga.publish_scheduled"
"""The activity; `ScheduledPublish` is the workflow. Names on the wire, as those in `names`."""

_STARTED_FOR = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


class ScheduledEvent(BaseModel):
    """What a schedule is for."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event_type: str
    """Such as `MONTH_RESET_REQUESTED`; its class makes the event in `scheduled`."""
    arguments: dict[str, JsonValue]
    """For that method."""


@workflow.defn(name="ScheduledPublish")
class ScheduledPublish:
    """Publishes the event that was due at the moment its schedule named."""

    @workflow.run
    async def run(self, wanted: ScheduledEvent) -> str:
        """Returns the event's id."""
        info = workflow.info()
        at = info.typed_search_attributes.get(_STARTED_FOR) or info.start_time
        event_id: str = await workflow.execute_activity(
            PUBLISH_SCHEDULED,
            args=[wanted, at.isoformat()],
            result_type=str,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
            summary=f"publish {wanted.event_type}",
        )
        workflow.set_current_details(f"published {event_id}")
        return event_id
