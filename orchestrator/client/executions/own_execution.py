"""Makes sure that a saga has its own execution; publishing, retrying and recovery all go through this one call."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.in_flight import request_slot
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.names import EVENT_SIGNAL, UNDO_SIGNAL, own_workflow_id
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.search_attributes import of_event

_TASK_TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class OwnExecution:
    """The own execution of a saga."""

    workflow_id: str
    run_id: str | None
    started: bool
    """Whether a run was started or signalled; False if the execution had already completed, so nothing was sent."""


async def ensure_own_execution(
    client: Client,
    orchestrator: str,
    envelope: Envelope,
    task_queue: str,
    *,
    although_completed: bool = False,
    undoes: bool = False,
) -> OwnExecution:
    """Signal the saga's execution with its event; start one if none is running and none has completed.

    A failed run is followed by a new one, which returns the recorded outcome or continues the saga.

    Args:
        client: a connection to Temporal.
        orchestrator: the orchestrator's name.
        envelope: the event that starts the saga.
        task_queue: the task queue of the execution.
        although_completed: whether to start a run even if one has completed, for a saga whose row is still unfinished.
        undoes: whether the database has decided to undo the saga, so that the undo must begin before the author's code
            runs.

    Raises:
        temporalio.service.RPCError: the server did not confirm the request.
    """
    workflow_id = own_workflow_id(orchestrator, envelope.event_id)
    reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    if although_completed:
        reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE

    event = [raw_json(envelope.text.encode())]

    async def start(attributes: TypedSearchAttributes | None) -> str | None:
        async with request_slot():
            handle = await client.start_workflow(
                orchestrator,
                args=event if undoes else [],
                id=workflow_id,
                task_queue=task_queue,
                start_signal=UNDO_SIGNAL if undoes else EVENT_SIGNAL,
                start_signal_args=[] if undoes else event,
                id_reuse_policy=reuse,
                task_timeout=timedelta(seconds=_TASK_TIMEOUT_SECONDS),
                static_summary=f"{envelope.event_type} {envelope.event_id}",
                search_attributes=attributes,
            )
        return handle.result_run_id

    try:
        try:
            run_id = await start(of_event(envelope.event_type, envelope.event_id))
        except RPCError as fault:
            if fault.status is not RPCStatusCode.INVALID_ARGUMENT or "search attribute" not in fault.message.lower():
                raise
            run_id = await start(None)  # no worker has registered the attributes yet; the execution sets them later
    except WorkflowAlreadyStartedError as closed:
        return OwnExecution(workflow_id, closed.run_id, started=False)
    return OwnExecution(workflow_id, run_id, started=True)
