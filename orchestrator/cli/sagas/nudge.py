"""Reaching what drives a saga: its running execution, or one that is started for it."""

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.cli.sagas.diagnosis import SagaDiagnosis
from orchestrator.cli.sagas.retry_reason import BlockedReason
from orchestrator.cli.terminal.exit_codes import NotPossible
from orchestrator.client.own_execution import ensure_own_execution
from orchestrator.client.renewal import begin_again, cancel_if_running
from orchestrator.errors import Unreachable
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.envelope import read
from orchestrator.protocol.names import RETRY_SIGNAL
from orchestrator.settings import Settings


async def send_retry(client: Client, settings: Settings, standing: SagaDiagnosis) -> bool:
    """Wake whatever waits in a saga's execution, or start one where none runs.

    Returns:
        Whether it was started.

    Raises:
        NotPossible: none runs, and none can be started.
        Unreachable: Temporal does not answer.
    """
    try:
        if standing.is_driven:
            try:
                await client.get_workflow_handle(standing.workflow_id).signal(RETRY_SIGNAL)
                return False
            except RPCError as fault:
                if fault.status is not RPCStatusCode.NOT_FOUND:
                    raise
        undoes = standing.saga is not None and standing.saga.phase is Phase.UNDOING
        await _start(client, settings, standing, undoes=undoes)
    except RPCError as fault:
        raise _unreachable(standing, fault) from fault
    return True


async def send_cancel(client: Client, settings: Settings, standing: SagaDiagnosis, *, by: str) -> None:
    """Cancel a saga's execution; one that does not run is started first, so that somebody undoes.

    A partition carries others, too, and is not cancelled: the saga gets an execution of its own to be undone by.

    Raises:
        NotPossible: none runs, and none can be started.
        Unreachable: Temporal does not answer.
    """
    reason = f"by {by}, with the command line"
    try:
        if standing.is_driven and not standing.is_carried:
            await client.get_workflow_handle(standing.workflow_id).cancel(reason=reason)
            return
        workflow_id = await _start(client, settings, standing, undoes=True)
        try:
            await client.get_workflow_handle(workflow_id).cancel(reason=reason)
        except RPCError as fault:
            # It may have ended already: what it was to do stands in the database.
            if fault.status is not RPCStatusCode.NOT_FOUND:
                raise
    except RPCError as fault:
        raise _unreachable(standing, fault) from fault


async def begin_undoing_again(client: Client, standing: SagaDiagnosis, *, undoes: bool = False) -> bool:
    """Have an execution whose workflow task fails begin again with an empty history, as `recover` does.

    A saga that is to be undone is then undone without its `handle`; any other runs `handle` from its first line.

    Returns:
        Whether it did.

    Raises:
        Unreachable: Temporal does not answer.
    """
    reason = standing.reason
    if reason is None or reason.kind is not BlockedReason.BUG or standing.is_carried:
        return False
    try:
        undoes = undoes or (standing.saga is not None and standing.saga.phase is Phase.UNDOING)
        told = "with the command line"
        begun = await begin_again(client, standing.workflow_id, reason.run_id, reason=told, undoes=undoes)
        if reason.is_cancel_requested:
            await cancel_if_running(client, standing.workflow_id, reason=told)
    except RPCError as fault:
        raise _unreachable(standing, fault) from fault
    return begun


async def _start(client: Client, settings: Settings, standing: SagaDiagnosis, *, undoes: bool) -> str:
    if standing.saga is None:
        raise NotPossible(
            "saga.not_driven",
            f"{standing.workflow_id} has ended before anything was done, so there is nothing to take up. Publish the "
            "event again with the same id",
        )
    envelope = read(standing.saga.envelope)
    # The database decides that it is not done, whatever became of an earlier execution.
    started = await ensure_own_execution(
        client, standing.orchestrator, envelope, settings.task_queue, although_completed=True, undoes=undoes
    )
    return started.workflow_id


def _unreachable(standing: SagaDiagnosis, fault: RPCError) -> Unreachable:
    return Unreachable(f"Temporal did not take it for {standing.workflow_id} ({fault.message}); try again")
