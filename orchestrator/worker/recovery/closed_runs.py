"""Executions that closed without taking their messages: found by visibility, read from their histories.

This module derives from the history what `orchestrator.workflow.own_execution` would have done with the messages:
which there were, in which order, and at which position. A position identifies a dead letter, so both must count alike.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.update.v1 import Request
from temporalio.client import Client

from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.protocol import names
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read_received
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.protocol.wave import Carried

_ENDED_WELL = ("completed", "failed", "cancelled", "rejected")
"""`SagaStatus` of an execution that took every message before it closed."""


@dataclass(frozen=True, slots=True)
class ClosedRun:
    """One run of an orchestrator's execution that was cut off."""

    orchestrator: str
    workflow_id: str
    run_id: str
    closed_at: datetime
    """By Temporal's clock."""
    was_moved: bool = False
    """Terminated only so that its saga goes on on another task queue."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was sent to a run."""

    door: str
    """`start`, `update`, or the signal's name."""
    position: int
    """Count of messages that the run had received, this one among them."""
    raw: bytes
    """Empty, without a door: a saga that is open, whose event the database has."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A start, a signal or an update, as the history has it."""

    event_id: int
    """Of an update: the last event that its workflow had seen before it."""
    messages: Sequence[tuple[str, bytes]]
    """Each with the door that it came through."""
    is_start: bool = False
    is_update: bool = False


async def closed_abnormally(
    client: Client, orchestrators: Iterable[str], task_queue: str, *, since: datetime | None, until: datetime
) -> AsyncIterator[ClosedRun]:
    """Runs on a task queue that closed and may have left messages, page by page as the server gives them.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    types = ", ".join(json.dumps(name) for name in orchestrators)
    ended_well = ", ".join(json.dumps(status) for status in _ENDED_WELL)
    terms = [
        f"TaskQueue = {json.dumps(task_queue)}",
        f"WorkflowType IN ({types})",
        f"CloseTime <= {_moment(until)}",
        'ExecutionStatus IN ("Terminated", "TimedOut", "Failed", "Canceled")',
        f"(SagaStatus IS NULL OR SagaStatus NOT IN ({ended_well}))",
    ]
    if since is not None:
        terms.append(f"CloseTime >= {_moment(since)}")
    async for run in client.list_workflows(" AND ".join(terms)):
        if run.close_time is not None:
            yield ClosedRun(run.workflow_type, run.id, run.run_id, run.close_time)


async def newest_close(client: Client) -> datetime | None:
    """When the newest visible execution of the namespace completed: Temporal's clock has reached at least that.

    The server gives no time by itself. Executions come with the newest first; if a server should sort them otherwise,
    the time is earlier, and the next sweep looks through more than it needs to.

    Returns:
        None if none is visible.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    async for run in client.list_workflows('ExecutionStatus = "Completed"', limit=1, page_size=1):
        return run.close_time
    return None


async def messages_of(client: Client, run: ClosedRun) -> list[Message]:
    """Every message of a run, in the order in which it is taken.

    Raises:
        temporalio.service.RPCError: the history is gone, or the server does not answer.
    """
    started = _Sent(0, [])
    signals: list[_Sent] = []
    last_task = first_task = 0
    handle = client.get_workflow_handle(run.workflow_id, run_id=run.run_id)
    async for event in handle.fetch_history_events():
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                started = _start(run, event)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                signals.append(_signal(event))
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                accepted = event.workflow_execution_update_accepted_event_attributes
                if accepted.HasField("accepted_request"):
                    signals.append(_update(accepted.accepted_request_sequencing_event_id, accepted.accepted_request))
            # What a reset brings along is admitted first, and then accepted without its content.
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
                request = event.workflow_execution_update_admitted_event_attributes.request
                signals.append(_update(event.event_id, request))
            case EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                last_task = event.event_id
            case EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                first_task = first_task or event.workflow_task_completed_event_attributes.started_event_id
            case _:
                pass
    # An update is written down when its task ends, behind signals that came before then and are the next task's.
    signals.sort(key=lambda one: (one.event_id, one.is_update))
    # What came by the first task that was completed was received before the arguments, and taken after them.
    first_task = first_task or last_task
    early = [one for one in signals if one.event_id < first_task]
    late = [one for one in signals if one.event_id >= first_task]
    position = 0
    first: list[Message] = []
    then: list[Message] = []
    for sent in (*early, started, *late):
        for door, raw in sent.messages:
            position += 1
            (first if sent.is_start else then).append(Message(door, position, raw))
    return [*first, *then]


def read_message(orchestrator: AnyOrchestrator, message: Message) -> tuple[Envelope, DomainEvent]:
    """The event in a message.

    Raises:
        UnreadableEvent: it is none that this orchestrator takes; with the code under which the execution keeps it.
    """
    envelope = read_received(message.door, message.raw)
    for awaited in orchestrator.awaited:
        if envelope.event_type == awaited.type_name():
            with contextlib.suppress(UnreadableEvent):
                return envelope, unwrap(envelope, awaited)
    return envelope, unwrap(envelope, *orchestrator.requests)


def _start(run: ClosedRun, event: HistoryEvent) -> _Sent:
    attributes = event.workflow_execution_started_event_attributes
    given = [one.data for one in attributes.input.payloads]
    if not (names.is_partition(run.workflow_id) and attributes.continued_execution_run_id):
        return _Sent(event.event_id, [(names.START_SOURCE, raw) for raw in given], is_start=True)
    # A partition's next run begins with the places of what it carries; the database has those that are open.
    places = Carried.model_validate_json(given[0]).carried
    raws = iter(given[1:])
    return _Sent(
        event.event_id,
        [("", b"") if place.event_id else (place.door, next(raws)) for place in places],
        is_start=True,
    )


def _signal(event: HistoryEvent) -> _Sent:
    sent = event.workflow_execution_signaled_event_attributes
    if sent.signal_name in (names.RETRY_SIGNAL, names.WAKE_SIGNAL, names.UNDO_SIGNAL):
        return _Sent(event.event_id, [])
    return _Sent(
        event.event_id, [(sent.signal_name, one.data) for one in sent.input.payloads] or [(sent.signal_name, b"")]
    )


def _update(event_id: int, request: Request) -> _Sent:
    given = [(names.UPDATE_SOURCE, one.data) for one in request.input.args.payloads]
    return _Sent(event_id, given or [(names.UPDATE_SOURCE, b"")], is_update=True)


def _moment(moment: datetime) -> str:
    return json.dumps(moment.astimezone(UTC).isoformat().replace("+00:00", "Z"))
