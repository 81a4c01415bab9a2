"""Signals or cancels the execution that drives a saga, or starts one if none runs."""

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.terminal.exit_codes import NotPossible
from orchestrator.client.executions.own_execution import ensure_own_execution
from orchestrator.client.executions.renewal import begin_again, cancel_if_running
from orchestrator.errors import Unreachable
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import read
from orchestrator.protocol.names import RETRY_SIGNAL
from orchestrator.settings import Settings


async def send_retry(client: Client, settings: Settings, diagnosis: SagaDiagnosis) -> bool:
    """Make a saga's execution retry immediately, or start an execution if none runs.

    Returns:
        Whether an execution was started.

    Raises:
        NotPossible: no execution runs, and none can be started.
        Unreachable: Temporal does not answer.
    """
    try:
        if diagnosis.is_driven:
            try:
                await client.get_workflow_handle(diagnosis.workflow_id).signal(RETRY_SIGNAL)
                return False
            except RPCError as fault:
                if fault.status is not RPCStatusCode.NOT_FOUND:
                    raise
        undoes = diagnosis.saga is not None and diagnosis.saga.phase is Phase.UNDOING
        await _start(client, settings, diagnosis, undoes=undoes)
    except RPCError as fault:
        raise _unreachable(diagnosis, fault) from fault
    return True


async def send_cancel(client: Client, settings: Settings, diagnosis: SagaDiagnosis, *, by: str) -> None:
    """Cancel a saga's execution. If none runs, start one first, so that the saga is undone.

    A partition is not cancelled, because it carries other sagas as well. The saga gets its own execution for the undo.

    Raises:
        NotPossible: no execution runs, and none can be started.
        Unreachable: Temporal does not answer.
    """
    reason = f"by {by}, with the command line"
    try:
        if diagnosis.is_driven and not diagnosis.is_carried:
            await client.get_workflow_handle(diagnosis.workflow_id).cancel(reason=reason)
            return
        workflow_id = await _start(client, settings, diagnosis, undoes=True)
        try:
            await client.get_workflow_handle(workflow_id).cancel(reason=reason)
        except RPCError as fault:
            # It is no error if the execution has already ended, because the decision is in the database.
            if fault.status is not RPCStatusCode.NOT_FOUND:
                raise
    except RPCError as fault:
        raise _unreachable(diagnosis, fault) from fault


async def restart_failing_execution(client: Client, diagnosis: SagaDiagnosis, *, undoes: bool = False) -> bool:
    """Restart an execution whose workflow task fails, with an empty history, as `recover` does.

    If the saga is to be undone, the new execution undoes it without running `handle`; otherwise it runs `handle` from
    its first line.

    Returns:
        Whether the execution was restarted.

    Raises:
        Unreachable: Temporal does not answer.
    """
    reason = diagnosis.reason
    if reason is None or reason.kind is not BlockedReason.BUG or diagnosis.is_carried:
        return False
    try:
        undoes = undoes or (diagnosis.saga is not None and diagnosis.saga.phase is Phase.UNDOING)
        by = "with the command line"
        is_restarted = await begin_again(client, diagnosis.workflow_id, reason.run_id, reason=by, undoes=undoes)
        if reason.is_cancel_requested:
            await cancel_if_running(client, diagnosis.workflow_id, reason=by)
    except RPCError as fault:
        raise _unreachable(diagnosis, fault) from fault
    return is_restarted


async def _start(client: Client, settings: Settings, diagnosis: SagaDiagnosis, *, undoes: bool) -> str:
    if diagnosis.saga is None:
        raise NotPossible(
            "saga.not_driven",
            f"{diagnosis.workflow_id} has ended before it wrote anything, so there is nothing to resume. Publish the "
            "event again with the same id",
        )
    envelope = read(diagnosis.saga.envelope)
    # The database says that the saga is not done, so even an execution that completed is started again.
    started = await ensure_own_execution(
        client, diagnosis.orchestrator, envelope, settings.task_queue, although_completed=True, undoes=undoes
    )
    return started.workflow_id


def _unreachable(diagnosis: SagaDiagnosis, fault: RPCError) -> Unreachable:
    return Unreachable(
        f"Temporal did not confirm the request for {diagnosis.workflow_id} ({fault.message}). Run the command again"
    )
