"""Events by the calendar: what a Temporal schedule starts, since a schedule can start a workflow and signal none.

The event's class says which event is due, and under which id: firing twice, late, or by hand publishes one event.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ApplicationError

from orchestrator.protocol import names
from orchestrator.protocol.dead_letters import pieces
from orchestrator.protocol.json_text import has_rounded_number
from orchestrator.protocol.reserved_names import SCHEDULED_WORKFLOW
from orchestrator.protocol.unwrapping import describe

PUBLISH_SCHEDULED = "saga.publish_scheduled"
"""The activity; `ScheduledPublish` is the workflow. Names on the wire, as those in `names`."""

_EXACT = "scheduled-numbers-are-exact"
_STARTED_FOR = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


class ScheduledEvent(BaseModel):
    """What a schedule is for."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event_type: str
    """Such as `MONTH_RESET_REQUESTED`; its class makes the event in `scheduled`."""
    arguments: dict[str, JsonValue]
    """For that method."""


@workflow.defn(name=SCHEDULED_WORKFLOW)
class ScheduledPublish:
    """Publishes the event that was due at the moment its schedule named."""

    @workflow.run
    async def run(self, *arguments: RawValue) -> str:
        """Takes a `ScheduledEvent`. Returns the event's id."""
        try:
            [only] = arguments
            wanted = ScheduledEvent.model_validate_json(only.payload.data)
        except ValidationError as fault:
            await self._keep(arguments, f"this is nothing that a schedule is for: {describe(fault)}")
        except ValueError:
            await self._keep(arguments, f"takes one argument, and was given {len(arguments)}")
        if has_rounded_number(only.payload.data) and workflow.patched(_EXACT):
            await self._keep(arguments, "a number has more digits than a JSON number keeps: give it as a string")
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

    async def _keep(self, arguments: Sequence[RawValue], reason: str) -> NoReturn:
        """Keep what somebody started it with by hand, and fail: a task that cannot read it would be tried for ever."""
        code = "event.invalid"
        for position, argument in enumerate(arguments, start=1):
            cut = pieces(argument.payload.data, source=names.START_SOURCE, position=position, code=code, reason=reason)
            for piece in cut:
                await workflow.execute_activity(
                    names.DEAD_LETTER,
                    piece,
                    start_to_close_timeout=timedelta(seconds=30),
                    retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
                    summary=f"keep a dead letter: {code}",
                )
        raise ApplicationError(reason, type=code, non_retryable=True)
