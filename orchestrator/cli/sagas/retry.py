"""`orchestrator retry`: immediately retries whatever a saga is waiting to retry."""

import asyncio

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason
from orchestrator.cli.diagnosis.event import diagnose
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.sagas.nudge import restart_failing_execution, send_retry
from orchestrator.cli.sagas.outcome_wait import print_already_ended
from orchestrator.cli.sagas.status import saga_document
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, EventId, OrchestratorName
from orchestrator.cli.terminal.output import Output
from orchestrator.client import connect_temporal
from orchestrator.settings import Settings


def retry(event_id: EventId, orchestrator: OrchestratorName = None, as_json: AsJson = False) -> int:
    """Immediately retry what a saga is stuck at or waits to retry. Fix the cause first.

    If no execution drives the saga, one is started and the saga continues from its last recorded step. If nothing is
    waiting for a retry, nothing changes, and the command says so. It does not wait for the outcome, which
    `orchestrator status` shows.

    \b
    Examples:
      orchestrator retry order-17
      orchestrator retry order-17 --orchestrator MoneyTransfer --json
    """
    return asyncio.run(_retry(Settings(), Output(as_json), event_id, orchestrator))


async def _retry(settings: Settings, output: Output, event_id: str, orchestrator: str | None) -> int:
    client = await connect_temporal(settings)
    event = await diagnose(settings, event_id, client)
    diagnosis = event.select(orchestrator)
    if diagnosis is None:
        return print_already_ended(event, orchestrator, output)
    saga_name, why = diagnosis.workflow_id, diagnosis.why
    if await send_retry(client, settings, diagnosis):
        did = "started"
        output.state("accepted", f"{saga_name} had no driver and was started; it continues from its last recorded step")
    elif await restart_failing_execution(client, diagnosis):
        did = "begun_again"
        output.state("accepted", f"{saga_name} was restarted with an empty history: {why}")
    elif _waits_for_retry(diagnosis):
        did = "retried"
        output.state("accepted", f"{saga_name} retries now: {why}")
    else:
        did = "nothing"
        output.line(f"{saga_name} is not waiting for a retry, so nothing was changed: {why}")
    output.line(f"See its status: {command('status', event_id)}")
    if output.as_json:
        output.document({"did": did, "sagas": [saga_document(diagnosis)]})
    return Exit.COMPLETED


def _waits_for_retry(diagnosis: SagaDiagnosis) -> bool:
    is_stuck = diagnosis.saga is not None and diagnosis.saga.is_stuck
    return is_stuck or (diagnosis.reason is not None and diagnosis.reason.kind is BlockedReason.RETRYING)
