"""What an execution does, read from its history as it is written."""

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
from orchestrator.workflow.local_first import REPLY_TOO_LARGE

_SOON, _LATER = 0.1, 2.0
"""Seconds between two tries to reach a server that is away."""
FINISHING = "finish: "
"""How the activity is told whose work is the outcome."""
State = Literal["done", "refused", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened."""

    what: str
    """For example `step 1: account.withdraw`, `undo step 1: account.put_back`, `finish: completed`."""
    state: State
    """`ended`: nothing was done, as it had been decided before."""
    detail: str = ""
    """Why, unless it was simply done."""


async def progress_of(client: Client, workflow_id: str, run_id: str | None) -> AsyncGenerator[Progress]:
    """Each step, undoing and finish as it ends, until the execution does; across lost connections.

    Raises:
        temporalio.service.RPCError: the execution is not there, or the server does not let us read it.
    """
    following: str | None = run_id
    while True:
        named: dict[int, str] = {}
        next_run = ""
        async for event in _events_of(client, workflow_id, following):
            told = _told(event, named)
            if told is not None:
                yield told
            # A stuck saga that is taken up again goes on in another run.
            next_run = event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id or next_run
        if not next_run:
            return
        following = next_run


async def _events_of(client: Client, workflow_id: str, run_id: str | None) -> AsyncGenerator[HistoryEvent]:
    """A run's history as it is written, each event once."""
    last, pause = 0, _SOON
    while True:
        try:
            handle = client.get_workflow_handle(workflow_id, run_id=run_id)
            async for event in handle.fetch_history_events(wait_new_event=True):
                pause = _SOON
                if event.event_id > last:
                    last = event.event_id
                    yield event
            return
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND or is_fatal(fault):
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LATER)


_LOCAL_MARKER = "core_local_activity"
"""How the SDK's core names it in a history."""


class _Local(BaseModel):
    """As much of a local activity's marker as is told."""

    activity_type: str


class _Reply(BaseModel):
    """As much of an activity's reply as tells whether it did anything."""

    kind: str = ""
    phase: str = ""


def _decided_before(what: str, reply: bytes) -> str:
    """What an activity that did nothing found decided; empty for one that did its work."""
    try:
        read = _Reply.model_validate_json(reply)
    except ValidationError:
        return ""
    match read.kind:
        case "decided":
            return f"decided before: {read.phase}"
        case "reused":
            return "the event's id was used before for other content"
        case "outcome" if not what.startswith(FINISHING):
            return f"ended before: {read.phase}"
        case _:
            return ""


def _what(activity: str, summary: str) -> str:
    """The Web UI shows an activity's type beside its summary; here both make one phrase."""
    if activity in (ATOMIC.name, UNDO_ATOMIC):
        return summary  # which names the operations
    match activity:
        case names.FINISH:
            return f"{FINISHING}{summary}"
        case names.BEGIN_UNDO:
            return f"turn to undoing: {summary}"
        case _:
            return f"{summary}: {activity}" if summary else activity


def _told(event: HistoryEvent, named: dict[int, str]) -> Progress | None:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            named[event.event_id] = _what(
                event.activity_task_scheduled_event_attributes.activity_type.name, _summary(event)
            )
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            done = event.activity_task_completed_event_attributes
            return _done(named[done.scheduled_event_id], done.result)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED:
            failed = event.activity_task_failed_event_attributes
            return _failed(named[failed.scheduled_event_id], failed.failure)
        case EventType.EVENT_TYPE_MARKER_RECORDED:
            return _told_of_local(event)
        case _:
            pass
    return None


def _told_of_local(event: HistoryEvent) -> Progress | None:
    """A local activity leaves one marker when it ends. One that failed for now goes on as a regular activity."""
    marker = event.marker_recorded_event_attributes
    if marker.marker_name != _LOCAL_MARKER:
        return None
    local = _Local.model_validate_json(marker.details["data"].payloads[0].data)
    what = _what(local.activity_type, _summary(event))
    if not marker.HasField("failure"):
        return _done(what, marker.details["result"])
    cause = marker.failure.application_failure_info
    return _failed(what, marker.failure) if cause.non_retryable and cause.type != REPLY_TOO_LARGE else None


def _summary(event: HistoryEvent) -> str:
    return event.user_metadata.summary.data.decode("utf-8", "replace").strip('"')


def _done(what: str, result: Payloads) -> Progress:
    before = _decided_before(what, result.payloads[0].data if result.payloads else b"")
    return Progress(what, "ended" if before else "done", before)


def _failed(what: str, failure: Failure) -> Progress:
    cause = failure.application_failure_info
    refused = len(cause.details.payloads) > 0
    return Progress(what, "refused" if refused else "failed", f"{cause.type}: {failure.message}")
