"""`orchestrator retry`: what waits in a saga is tried again at once."""

import asyncio

from orchestrator.cli.sagas.cancel import tell_ended
from orchestrator.cli.sagas.diagnosis import SagaDiagnosis, find
from orchestrator.cli.sagas.nudge import begin_undoing_again, send_retry
from orchestrator.cli.sagas.retry_reason import BlockedReason
from orchestrator.cli.sagas.status import saga_document
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, EventId, OrchestratorName
from orchestrator.cli.terminal.output import Output
from orchestrator.client import connect_temporal
from orchestrator.settings import Settings


def retry(event_id: EventId, orchestrator: OrchestratorName = None, as_json: AsJson = False) -> int:
    """Try again at once what a saga is stuck at, or waits to try again; mend the cause first.

    A saga that no execution drives gets one, and goes on where it stands. Where nothing waits this changes nothing, and
    says so. Does not wait for the outcome: see `orchestrator status`.

    \b
    Examples:
      orchestrator retry order-17
      orchestrator retry order-17 --orchestrator MoneyTransfer --json
    """
    return asyncio.run(_retry(Settings(), Output(as_json), event_id, orchestrator))


async def _retry(settings: Settings, output: Output, event_id: str, orchestrator: str | None) -> int:
    client = await connect_temporal(settings)
    found = await find(settings, event_id, client)
    saga = found.chosen(orchestrator)
    if saga is None:
        return tell_ended(found, orchestrator, output)
    is_started = await send_retry(client, settings, saga)
    did = "started" if is_started else "begun_again" if await begin_undoing_again(client, saga) else _did(saga)
    match did:
        case "begun_again":
            output.state("accepted", f"{saga.workflow_id} begins again with an empty history: {saga.why}")
        case "started":
            output.state("accepted", f"{saga.workflow_id} was started, as nothing drove it; it goes on where it stands")
        case "retried":
            output.state("accepted", f"{saga.workflow_id} tries again now: {saga.why}")
        case _:
            output.say(f"{saga.workflow_id} has nothing that waits for a retry, so nothing changed: {saga.why}")
    output.say(f"See what becomes of it: {command('status', event_id)}")
    if output.as_json:
        output.document({"did": did, "sagas": [saga_document(saga)]})
    return Exit.COMPLETED


def _did(saga: SagaDiagnosis) -> str:
    is_stuck = saga.saga is not None and saga.saga.is_stuck
    return (
        "retried" if is_stuck or (saga.reason is not None and saga.reason.kind is BlockedReason.RETRYING) else "nothing"
    )
