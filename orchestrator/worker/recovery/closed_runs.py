"""Finds executions that closed with unprocessed messages, and reads these messages from their histories.

The messages must have the same order and positions as in `orchestrator.workflow.own_execution`, because a dead letter
is identified by its position.
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
from orchestrator.protocol.messages.dead_letters import Inbound
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read_received
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.protocol.wave import Carried

_ENDED_WELL = ("completed", "failed", "cancelled", "rejected")
"""The values of `SagaStatus` that mean that an execution processed every message before it closed."""


@dataclass(frozen=True, slots=True)
class ClosedRun:
    """A run of an orchestrator's execution that was cut off."""

    orchestrator: str
    workflow_id: str
    run_id: str
    closed_at: datetime
    """The time at which the run closed, by Temporal's clock."""
    was_moved: bool = False
    """Whether the run was terminated only because its saga moves to another task queue."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A start, a signal or an update in a history."""

    event_id: int
    """The id of the history event or, for an update, of the last event that the workflow had seen before the update."""
    messages: Sequence[tuple[str, bytes]]
    """The messages, each with its source."""
    is_start: bool = False
    is_update: bool = False


async def closed_abnormally(
    client: Client, orchestrators: Iterable[str], task_queue: str, *, since: datetime | None, until: datetime
) -> AsyncIterator[ClosedRun]:
    """Yield the closed runs of a task queue that may have unprocessed messages, as the server pages through them.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    types = ", ".join(json.dumps(name) for name in orchestrators)
    ended_well = ", ".join(json.dumps(status) for status in _ENDED_WELL)
    terms = [
        f"TaskQueue = {json.dumps(task_queue)}",
        f"WorkflowType IN ({types})",
        f"CloseTime <= {_format_time(until)}",
        'ExecutionStatus IN ("Terminated", "TimedOut", "Failed", "Canceled")',
        f"(SagaStatus IS NULL OR SagaStatus NOT IN ({ended_well}))",
    ]
    if since is not None:
        terms.append(f"CloseTime >= {_format_time(since)}")
    async for run in client.list_workflows(" AND ".join(terms)):
        if run.close_time is not None:
            yield ClosedRun(run.workflow_type, run.id, run.run_id, run.close_time)


async def newest_close(client: Client) -> datetime | None:
    """Return when the newest visible execution of the namespace completed. Temporal's clock is at least that late.

    The server has no API for its time, but it lists the newest executions first. If a server sorts them differently,
    the returned time is earlier, and the next sweep checks more executions than necessary.

    Returns:
        The time, or None if no completed execution is visible.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    async for run in client.list_workflows('ExecutionStatus = "Completed"', limit=1, page_size=1):
        return run.close_time
    return None


async def messages_of(client: Client, run: ClosedRun) -> list[Inbound]:
    """Return every message of a run, in the order in which the run processes them.

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
            # An update that a reset carries over is first recorded as admitted, and later as accepted without its
            # content.
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED:
                request = event.workflow_execution_update_admitted_event_attributes.request
                signals.append(_update(event.event_id, request))
            case EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                last_task = event.event_id
            case EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                first_task = first_task or event.workflow_task_completed_event_attributes.started_event_id
            case _:
                pass
    # An update is recorded at the end of its task, after signals that arrived meanwhile and belong to the next task.
    signals.sort(key=lambda sent: (sent.event_id, sent.is_update))
    # Messages before the first completed task count before the start arguments, but are processed after them.
    first_task = first_task or last_task
    early = [sent for sent in signals if sent.event_id < first_task]
    late = [sent for sent in signals if sent.event_id >= first_task]
    position = 0
    start_messages: list[Inbound] = []
    other_messages: list[Inbound] = []
    for sent in (*early, started, *late):
        for source, raw in sent.messages:
            position += 1
            (start_messages if sent.is_start else other_messages).append(Inbound(source, position, raw))
    return [*start_messages, *other_messages]


def read_message(orchestrator: AnyOrchestrator, message: Inbound) -> tuple[Envelope, DomainEvent]:
    """Read the event in a message.

    Raises:
        UnreadableEvent: the orchestrator does not accept it. Its code is the one that the execution would have stored.
    """
    envelope = read_received(message.source, message.raw)
    for awaited in orchestrator.awaited:
        if envelope.event_type == awaited.type_name():
            with contextlib.suppress(UnreadableEvent):
                return envelope, unwrap(envelope, awaited)
    return envelope, unwrap(envelope, *orchestrator.requests)


def _start(run: ClosedRun, event: HistoryEvent) -> _Sent:
    attributes = event.workflow_execution_started_event_attributes
    arguments = [payload.data for payload in attributes.input.payloads]
    if not (names.is_partition(run.workflow_id) and attributes.continued_execution_run_id):
        return _Sent(event.event_id, [(names.START_SOURCE, raw) for raw in arguments], is_start=True)
    # A partition's next run starts with a list of the sagas that it carries; the database has the events of open ones.
    carried = Carried.model_validate_json(arguments[0]).carried
    raws = iter(arguments[1:])
    return _Sent(
        event.event_id,
        [("", b"") if item.event_id else (item.source, next(raws)) for item in carried],
        is_start=True,
    )


def _signal(event: HistoryEvent) -> _Sent:
    attributes = event.workflow_execution_signaled_event_attributes
    name = attributes.signal_name
    if name in (names.RETRY_SIGNAL, names.WAKE_SIGNAL, names.UNDO_SIGNAL):
        return _Sent(event.event_id, [])
    return _Sent(event.event_id, [(name, payload.data) for payload in attributes.input.payloads] or [(name, b"")])


def _update(event_id: int, request: Request) -> _Sent:
    messages = [(names.UPDATE_SOURCE, payload.data) for payload in request.input.args.payloads]
    return _Sent(event_id, messages or [(names.UPDATE_SOURCE, b"")], is_update=True)


def _format_time(moment: datetime) -> str:
    return json.dumps(moment.astimezone(UTC).isoformat().replace("+00:00", "Z"))
