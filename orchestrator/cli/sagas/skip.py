"""`orchestrator skip`: leaves a step as it is, records who decided it and why, and lets the saga continue."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

import typer

from orchestrator.cli.diagnosis.event import EventDiagnosis, diagnose, known_catalog
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.sagas.nudge import send_retry
from orchestrator.cli.sagas.outcome_wait import print_already_ended, print_outcome, wait_for_outcome
from orchestrator.cli.sagas.status import saga_document
from orchestrator.cli.sagas.undo_plan import plan_step_undo, plan_undo, print_undo_plan
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible, Stopped
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, EventId, OrchestratorName, Wait, WaitSeconds, Yes
from orchestrator.cli.terminal.output import Output
from orchestrator.cli.terminal.person import By, Reason, check_has_words, decided_by
from orchestrator.client import connect_temporal
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.sagas import SagaView, StepView
from orchestrator.store.saga.intervention import Skip, Skipped, check_skip, skip_step


@dataclass(frozen=True, slots=True)
class _Request:
    """The command's arguments and options, checked."""

    settings: Settings
    output: Output
    number: int
    reason: str
    by: str
    wait: bool
    timeout_seconds: float


def skip(
    event_id: EventId,
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="The step's number, as `status` shows it.")],
    reason: Reason,
    by: By = None,
    orchestrator: OrchestratorName = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: WaitSeconds = 60.0,
    as_json: AsJson = False,
) -> int:
    """Leave a step as it is and let its saga continue, for example when its compensation can no longer succeed.

    While a saga is being undone, a skipped step is not undone, so its effect remains; the failed event lists it as
    skipped. Past the point of no return, a step that cannot succeed can be skipped if `handle` does not need its
    result. The command shows what would remain, asks for confirmation, and waits for the saga's outcome.

    The exit code reports what became of the saga: 1 failed or cancelled, 0 completed (or skipped with --no-wait), 4 not
    finished within the timeout, 2 not possible in the step's current state, and nothing was changed.

    \b
    Examples:
      orchestrator skip order-17 2 --reason "paid back by hand, ticket 4711"
      orchestrator skip order-17 2 --reason "account was closed" --as olena --yes --json
    """
    check_has_words("--reason", reason)
    check_has_words("--as", by)
    request = _Request(Settings(), Output(as_json), step, reason.strip(), decided_by(by), wait, timeout)
    event, catalog = asyncio.run(_diagnose(request, event_id))
    diagnosis = event.select(orchestrator)
    if diagnosis is None:
        return print_already_ended(event, orchestrator, request.output)
    saga = diagnosis.saga
    if saga is None:
        raise NotPossible(
            "saga.not_skippable",
            f"{diagnosis.workflow_id} has not written anything to the database yet, so it has no step to skip",
        )
    known = catalog or Catalog.of(orchestrators=[])
    asyncio.run(_check(request, saga, known))
    skipped = next(candidate for candidate in saga.steps if candidate.number == step)
    if skipped.state is not StepState.SKIPPED:
        _print_consequences(diagnosis, saga, skipped, known, request.output)
        ask("Skip it?", request.output, is_agreed=yes)
    return asyncio.run(_skip(request, diagnosis, saga, known))


async def _diagnose(request: _Request, event_id: str) -> tuple[EventDiagnosis, Catalog | None]:
    # Connect first, because without Temporal the execution could not be notified, so nothing may be changed.
    client = await connect_temporal(request.settings)
    event = await diagnose(request.settings, event_id, client)
    return event, known_catalog(request.settings)


async def _check(request: _Request, saga: SagaView, catalog: Catalog) -> None:
    database = Database(request.settings.resolved_database_url)
    try:
        await check_skip(database, catalog, saga.id, request.number)
    finally:
        await database.close()


def _print_consequences(
    diagnosis: SagaDiagnosis, saga: SagaView, step: StepView, catalog: Catalog, output: Output
) -> None:
    planned = plan_step_undo(step, catalog)
    if saga.phase is not Phase.UNDOING:
        output.line(f"Skipping step {step.number} of {diagnosis.workflow_id} continues the saga without this call:")
        output.line(f"  call           {planned.call}")
        if saga.stuck_step == step.number and saga.stuck_error:
            output.line(f"  last error     {saga.stuck_error}")
        return
    output.line(f"Skipping step {step.number} of {diagnosis.workflow_id} leaves its effect in place:")
    output.line(f"  call           {planned.call}")
    output.line(f"  result         {step.result or 'none'}")
    output.line(f"  will not run   {planned.compensation or 'its compensation'}")
    if step.undo_error:
        output.line(f"  last error     {step.undo_error}")
    remaining = [other for other in plan_undo(saga, catalog) if other.number != step.number]
    if remaining:
        output.line("These steps are still undone, the last one first:")
        print_undo_plan(remaining, output)


async def _skip(request: _Request, diagnosis: SagaDiagnosis, saga: SagaView, catalog: Catalog) -> int:
    output = request.output
    client = await connect_temporal(request.settings)
    see_status = command("status", diagnosis.event_id)
    try:
        skipped = await _record_decision(request, saga, catalog)
        if skipped.before:
            output.line(f"Step {request.number} has already been skipped, by {skipped.by}: {skipped.reason}")
        else:
            output.state("skipped", f"step {request.number}, by {skipped.by}: {skipped.reason}")
        await send_retry(client, request.settings, diagnosis)
        if not request.wait:
            output.line(f"See its status: {see_status}")
            last, exit_code = diagnosis, Exit.COMPLETED
        else:
            last = await wait_for_outcome(
                client,
                request.settings,
                diagnosis,
                timeout_seconds=request.timeout_seconds,
                output=output,
                known={request.number: StepState.SKIPPED},
                restarts_failing=True,
            )
            exit_code = print_outcome(last, output, timeout_seconds=request.timeout_seconds)
    except asyncio.CancelledError:
        raise Stopped(f"Stopped. The step may have been skipped already; see: {see_status}") from None
    if output.as_json:
        output.document(
            {
                "did": "nothing" if skipped.before else "skipped",
                "skipped_by": skipped.by,
                "skip_reason": skipped.reason,
                "sagas": [saga_document(last)],
            }
        )
    return exit_code


async def _record_decision(request: _Request, saga: SagaView, catalog: Catalog) -> Skipped:
    databases = Databases.at(request.settings.resolved_database_url, request.settings.databases)
    try:
        return await skip_step(
            databases, catalog, Skip(saga_id=saga.id, number=request.number, by=request.by, reason=request.reason)
        )
    finally:
        await databases.close()
