"""Making sure that a saga has its own execution: publishing, retrying and recovering are this one call."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.in_flight import request_slot
from orchestrator.protocol.envelope import Envelope
from orchestrator.protocol.names import EVENT_SIGNAL, UNDO_SIGNAL, own_workflow_id
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.search_attributes import of_event

_TASK_TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class OwnExecution:
    """Where a saga is driven."""

    workflow_id: str
    run_id: str | None
    started: bool
    """False: the saga's execution had completed before, and was left as it is."""


async def ensure_own_execution(
    client: Client,
    orchestrator: str,
    envelope: Envelope,
    task_queue: str,
    *,
    although_completed: bool = False,
    undoes: bool = False,
) -> OwnExecution:
    """Signal the saga's execution with its event, starting it if none runs and none has completed.

    A run that failed is followed by a new one: the database then answers with the recorded outcome, or goes on.

    Args:
        client: a connection.
        orchestrator: its name.
        envelope: the event.
        task_queue: where it runs.
        although_completed: start it also if it has completed; for a saga that the database says is not done.
        undoes: the database has decided that the saga is undone, so the author's code is not to run before that.

    Raises:
        temporalio.service.RPCError: the server did not take it.
    """
    workflow_id = own_workflow_id(orchestrator, envelope.event_id)
    only_failed, always = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, WorkflowIDReusePolicy.ALLOW_DUPLICATE
    reuse = always if although_completed else only_failed

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
            run_id = await start(None)  # no worker has registered them yet; the execution sets them itself
    except WorkflowAlreadyStartedError as closed:
        return OwnExecution(workflow_id, closed.run_id, started=False)
    return OwnExecution(workflow_id, run_id, started=True)
