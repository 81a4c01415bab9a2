"""Publishes scheduled events. A Temporal schedule starts this workflow, because a schedule cannot send a signal.

The event's class computes the event and its id from the scheduled time, so that a schedule that fires twice, late or
manually still publishes only one event.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ApplicationError

from orchestrator.protocol import names
from orchestrator.protocol.messages.dead_letters import Inbound, pieces
from orchestrator.protocol.messages.json_text import has_rounded_number
from orchestrator.protocol.messages.validation_errors import describe
from orchestrator.protocol.reserved_names import SCHEDULED_WORKFLOW

PUBLISH_SCHEDULED = "saga.publish_scheduled"
"""The activity type. It is part of the wire format, like the constants in `names`. The workflow is
`ScheduledPublish`."""

_EXACT = "scheduled-numbers-are-exact"
_STARTED_FOR = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


class ScheduledEvent(BaseModel):
    """The event that a schedule publishes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event_type: str
    """The event type, such as `MONTH_RESET_REQUESTED`. Its class creates the event in its method `scheduled`."""
    arguments: dict[str, JsonValue]
    """The arguments of that method."""


@workflow.defn(name=SCHEDULED_WORKFLOW)
class ScheduledPublish:
    """Publishes the event that is due at the scheduled time."""

    @workflow.run
    async def run(self, *arguments: RawValue) -> str:
        """Publish the event that the argument, a `ScheduledEvent`, describes, and return its id."""
        try:
            [argument] = arguments
            scheduled = ScheduledEvent.model_validate_json(argument.payload.data)
        except ValidationError as fault:
            await self._reject(arguments, f"the argument does not describe a scheduled event: {describe(fault)}")
        except ValueError:
            await self._reject(arguments, f"the workflow takes one argument, but was given {len(arguments)}")
        if has_rounded_number(argument.payload.data) and workflow.patched(_EXACT):
            await self._reject(arguments, "a number has more digits than a JSON number keeps; give it as a string")
        info = workflow.info()
        scheduled_time = info.typed_search_attributes.get(_STARTED_FOR) or info.start_time
        event_id: str = await workflow.execute_activity(
            PUBLISH_SCHEDULED,
            args=[scheduled, scheduled_time.isoformat()],
            result_type=str,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
            summary=f"publish {scheduled.event_type}",
        )
        workflow.set_current_details(f"published {event_id}")
        return event_id

    async def _reject(self, arguments: Sequence[RawValue], reason: str) -> NoReturn:
        """Store the arguments as dead letters, and fail the execution, because a failing task would repeat forever."""
        code = "event.invalid"
        for position, argument in enumerate(arguments, start=1):
            for piece in pieces(Inbound(names.START_SOURCE, position, argument.payload.data), code, reason):
                await workflow.execute_activity(
                    names.DEAD_LETTER,
                    piece,
                    start_to_close_timeout=timedelta(seconds=30),
                    retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
                    summary=f"store a dead letter: {code}",
                )
        raise ApplicationError(reason, type=code, non_retryable=True)
