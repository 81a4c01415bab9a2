"""What an execution does, read from its history as it is written."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

State = Literal["done", "refused", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened."""

    what: str
    """For example `step 1: account.withdraw`, `undo step 1: account.put_back`, `finish: completed`."""
    state: State
    detail: str = ""
    """Why, if it was refused or failed."""


async def progress_of(client: Client, workflow_id: str, run_id: str | None) -> AsyncGenerator[Progress]:
    """Each step, undoing and finish as it ends, until the execution does."""
    named: dict[int, str] = {}
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    async for event in handle.fetch_history_events(wait_new_event=True):
        told = _told(event, named)
        if told is not None:
            yield told


def _told(event: HistoryEvent, named: dict[int, str]) -> Progress | None:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            summary = event.user_metadata.summary.data.decode("utf-8", "replace").strip('"')
            named[event.event_id] = summary or event.activity_task_scheduled_event_attributes.activity_type.name
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            return Progress(named[event.activity_task_completed_event_attributes.scheduled_event_id], "done")
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            cause = failed.failure.application_failure_info
            refused = len(cause.details.payloads) > 0
            detail = f"{cause.type}: {failed.failure.message}"
            return Progress(named[failed.scheduled_event_id], "refused" if refused else "failed", detail)
        case _:
            pass
    return None
