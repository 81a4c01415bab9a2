"""Reports the progress of an execution by reading its history while it is being written."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ValidationError
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.outcomes.execution_outcome import is_fatal
from orchestrator.definition.atomic import ATOMIC, UNDO_ATOMIC
from orchestrator.protocol import names
from orchestrator.workflow.local_first import CONTINUED

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two attempts to reach an unreachable server."""
FINISHING = "finish: "
"""The prefix of the progress entry for the activity that finishes the saga."""
State = Literal["done", "refused", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One activity that has ended."""

    what: str
    """What was done, as in `step 1: account.withdraw`, `undo step 1: account.put_back` or `finish: completed`."""
    state: State
    """How it ended; `ended` means that nothing was done, because the saga had already been decided."""
    detail: str = ""
    """The reason for any state other than `done`."""


async def progress_of(client: Client, workflow_id: str, run_id: str | None) -> AsyncGenerator[Progress]:
    """Yield each step, undo and finish when it ends, until the execution ends, across lost connections.

    Raises:
        temporalio.service.RPCError: the execution does not exist, or the server refuses to return its history.
    """
    current_run: str | None = run_id
    while True:
        scheduled: dict[int, str] = {}
        next_run = ""
        async for event in _events_of(client, workflow_id, current_run):
            progress = _progress(event, scheduled)
            if progress is not None:
                yield progress
            # A stuck saga that is retried continues in another run.
            next_run = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id or next_run
        if not next_run:
            return
        current_run = next_run


async def _events_of(client: Client, workflow_id: str, run_id: str | None) -> AsyncGenerator[HistoryEvent]:
    """Yield the events of a run while its history is being written, each event once."""
    last, pause = 0, _SHORTEST_PAUSE
    while True:
        try:
            handle = client.get_workflow_handle(workflow_id, run_id=run_id)
            async for event in handle.fetch_history_events(wait_new_event=True):
                pause = _SHORTEST_PAUSE
                if event.event_id > last:
                    last = event.event_id
                    yield event
            return
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND or is_fatal(fault):
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


_LOCAL_MARKER = "core_local_activity"
"""The name of a local activity's marker in a history, given by the SDK's core."""


class _Local(BaseModel):
    """The part of a local activity's marker that is reported."""

    activity_type: str


class _Reply(BaseModel):
    """The part of an activity's reply that shows whether it did anything."""

    kind: str = ""
    phase: str = ""


def _decided_before(what: str, reply: bytes) -> str:
    """Return the decision because of which an activity did nothing; empty if it did its work."""
    try:
        decision = _Reply.model_validate_json(reply)
    except ValidationError:
        return ""
    match decision.kind:
        case "decided":
            return f"decided before: {decision.phase}"
        case "reused":
            return "the event's id was already used for different content"
        case "outcome" if not what.startswith(FINISHING):
            return f"ended before: {decision.phase}"
        case _:
            return ""


def _what(activity: str, summary: str) -> str:
    """Combine an activity's type and its summary, which the Web UI shows side by side, into one phrase."""
    if activity in (ATOMIC.name, UNDO_ATOMIC):
        return summary  # it names the operations
    match activity:
        case names.FINISH:
            return f"{FINISHING}{summary}"
        case names.BEGIN_UNDO:
            return f"begin the undo: {summary}"
        case _:
            return f"{summary}: {activity}" if summary else activity


def _progress(event: HistoryEvent, scheduled: dict[int, str]) -> Progress | None:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled[event.event_id] = _what(
                event.activity_task_scheduled_event_attributes.activity_type.name, _summary(event)
            )
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            done = event.activity_task_completed_event_attributes
            return _done(scheduled[done.scheduled_event_id], done.result)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            return _failed(scheduled[failed.scheduled_event_id], failed.failure)
        case EventType.EVENT_TYPE_MARKER_RECORDED:
            return _local_progress(event)
        case _:
            pass
    return None


def _local_progress(event: HistoryEvent) -> Progress | None:
    """Return the progress in a local activity's marker; None if it failed and is retried as a regular activity."""
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != _LOCAL_MARKER:
        return None
    local = _Local.model_validate_json(marker.details["data"].payloads[0].data)
    what = _what(local.activity_type, _summary(event))
    if not marker.HasField("failure"):
        return _done(what, marker.details["result"])
    cause = marker.failure.application_failure_info
    return _failed(what, marker.failure) if cause.non_retryable and cause.type not in CONTINUED else None


def _summary(event: HistoryEvent) -> str:
    return event.user_metadata.summary.data.decode("utf-8", "replace").strip('"')


def _done(what: str, result: Payloads) -> Progress:
    before = _decided_before(what, result.payloads[0].data if result.payloads else b"")
    return Progress(what, "ended" if before else "done", before)


def _failed(what: str, failure: Failure) -> Progress:
    cause = failure.application_failure_info
    refused = len(cause.details.payloads) > 0
    return Progress(what, "refused" if refused else "failed", f"{cause.type}: {failure.message}")
