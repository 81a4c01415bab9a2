"""`orchestrator cancel`: undoes a saga, after showing the plan and asking for confirmation."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.cli.diagnosis.event import EventDiagnosis, diagnose, known_catalog
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.sagas.nudge import restart_failing_execution, send_cancel
from orchestrator.cli.sagas.outcome_wait import print_already_ended, print_outcome, wait_for_outcome
from orchestrator.cli.sagas.status import print_next_commands, saga_document
from orchestrator.cli.sagas.undo_plan import PlannedUndo, plan_undo, print_undo_plan
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible, Stopped
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, EventId, OrchestratorName, Wait, WaitSeconds, Yes
from orchestrator.cli.terminal.output import Output
from orchestrator.cli.terminal.person import this_person
from orchestrator.client import connect_temporal
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Phase
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.saga.intervention import cancel_saga

_ROW_LOCK_TIMEOUT = 3.0
"""How many seconds to wait for a running step to release the saga's row. After that the execution writes the
decision."""


@dataclass(frozen=True, slots=True)
class _Request:
    """The command's arguments and options, checked."""

    settings: Settings
    output: Output
    wait: bool
    timeout_seconds: float


def cancel(
    event_id: EventId,
    orchestrator: OrchestratorName = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: WaitSeconds = 60.0,
    as_json: AsJson = False,
) -> int:
    """Undo a saga: show what would be undone, ask for confirmation, cancel the saga, and wait until it is undone.

    An undo runs the compensation of each completed step, the last step first. A saga past its point of no return
    cannot be undone: the command says so, and the saga continues until it completes. If the saga has already ended, the
    command shows how it ended.

    The exit code reports what became of the saga: 1 cancelled or failed, 0 completed (or cancelled with --no-wait and
    accepted), 4 not finished within the timeout, 2 not possible in the saga's current state, and nothing was changed.

    \b
    Examples:
      orchestrator cancel order-17
      orchestrator cancel order-17 --yes --timeout 10 --json
      orchestrator cancel order-17 --orchestrator MoneyTransfer --no-wait
    """
    request = _Request(Settings(), Output(as_json), wait, timeout)
    event, catalog = asyncio.run(_diagnose(request, event_id))
    diagnosis = event.select(orchestrator)
    if diagnosis is None:
        return print_already_ended(event, orchestrator, request.output)
    plan = plan_undo(diagnosis.saga, catalog)
    if diagnosis.saga is not None and diagnosis.saga.phase is Phase.UNDOING:
        _print_already_undoing(diagnosis, plan, request.output)
    else:
        _refuse_past_pivot(diagnosis, request.output)
        _print_plan(diagnosis, plan, request.output)
        ask("Undo it?", request.output, is_agreed=yes)
    return asyncio.run(_cancel(request, diagnosis, plan))


async def _diagnose(request: _Request, event_id: str) -> tuple[EventDiagnosis, Catalog | None]:
    client = await connect_temporal(request.settings)
    event = await diagnose(request.settings, event_id, client)
    return event, known_catalog(request.settings)


def _refuse_past_pivot(diagnosis: SagaDiagnosis, output: Output) -> None:
    saga = diagnosis.saga
    if saga is None or saga.pivot is None:
        return
    pivot = next((step.shown for step in saga.steps if step.number == saga.pivot), "")
    pivot_step = f"step {saga.pivot}, {pivot}," if pivot else f"step {saga.pivot}"
    print_next_commands(diagnosis, output)
    raise NotPossible(
        "saga.past_pivot",
        f"Nothing was done, because {diagnosis.workflow_id} is past {pivot_step} which cannot be undone. The saga "
        "continues until it completes",
    )


def _print_plan(diagnosis: SagaDiagnosis, plan: Sequence[PlannedUndo], output: Output) -> None:
    if plan:
        output.line(f"Cancelling {diagnosis.workflow_id} undoes these steps, the last one first:")
        print_undo_plan(plan, output)
    else:
        output.line(f"Cancelling {diagnosis.workflow_id} undoes nothing, because no completed step needs to be undone.")
    if diagnosis.is_carried:
        output.line(f"  {diagnosis.workflow_id} is a partition with other sagas; only this saga is undone.")
    elif diagnosis.is_driven:
        output.line("  If a step is running, the undo waits for it, and undoes it too if it completes.")
    else:
        output.line("  No execution drives the saga, so one is started for the undo.")


def _print_already_undoing(diagnosis: SagaDiagnosis, plan: Sequence[PlannedUndo], output: Output) -> None:
    saga = diagnosis.saga
    assert saga is not None
    ends_as = (saga.ends_as or Phase.FAILED).value
    output.line(
        f"{diagnosis.workflow_id} is already being undone, to end as {ends_as} ({saga.error_code}: {saga.message}), so "
        "cancelling it changes nothing."
    )
    if plan:
        output.line("These steps are still to be undone, the last one first:")
        print_undo_plan(plan, output)


async def _cancel(request: _Request, diagnosis: SagaDiagnosis, plan: Sequence[PlannedUndo]) -> int:
    output = request.output
    client = await connect_temporal(request.settings)
    see_status = f"See its status: {command('status', diagnosis.event_id)}"
    try:
        if diagnosis.saga is not None and diagnosis.saga.phase is Phase.UNDOING:
            did = "nothing"
            if not diagnosis.is_driven:
                did = "started"
                await send_cancel(client, request.settings, diagnosis, by=this_person())
            elif await restart_failing_execution(client, diagnosis):
                did = "started"
        else:
            did = "cancelled"
            by = this_person()
            if diagnosis.saga is not None:
                await _record_decision(request, diagnosis, by)
            await send_cancel(client, request.settings, diagnosis, by=by)
            if await restart_failing_execution(client, diagnosis, undoes=True):
                await send_cancel(client, request.settings, diagnosis, by=by)
            output.state("accepted", f"the cancellation of {diagnosis.workflow_id}")
        if not request.wait:
            output.line(see_status)
            last, exit_code = diagnosis, Exit.COMPLETED
        else:
            last = await wait_for_outcome(
                client,
                request.settings,
                diagnosis,
                timeout_seconds=request.timeout_seconds,
                output=output,
                restarts_failing=True,
            )
            exit_code = print_outcome(last, output, timeout_seconds=request.timeout_seconds)
    except asyncio.CancelledError:
        raise Stopped(f"Stopped; what was already sent still takes effect. {see_status}") from None
    if output.as_json:
        output.document({"did": did, "plan": [planned.as_json() for planned in plan], "sagas": [saga_document(last)]})
    return exit_code


async def _record_decision(request: _Request, diagnosis: SagaDiagnosis, by: str) -> None:
    """Write the cancellation to the database, so that it takes effect even if the execution can no longer receive it.

    A running step holds a lock on the saga's row. If it holds the lock for long, the execution or recovery writes the
    decision later.
    """
    assert diagnosis.saga is not None
    databases = Databases.at(request.settings.resolved_database_url, request.settings.databases)
    try:
        timeout = asyncio.timeout(_ROW_LOCK_TIMEOUT if diagnosis.is_driven and not diagnosis.is_carried else None)
        try:
            async with timeout:
                await cancel_saga(databases, diagnosis.saga.id, by=by)
        except TimeoutError:
            if not timeout.expired():
                raise
    finally:
        await databases.close()
