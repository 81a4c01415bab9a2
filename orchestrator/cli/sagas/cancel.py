"""`orchestrator cancel`: a saga is undone, after a person has seen what that would do."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.cli.sagas.diagnosis import Found, SagaDiagnosis, find, known_catalog
from orchestrator.cli.sagas.nudge import begin_undoing_again, send_cancel
from orchestrator.cli.sagas.outcome_wait import settle, tell_outcome
from orchestrator.cli.sagas.status import saga_document, say_next
from orchestrator.cli.sagas.undo_plan import PlannedUndo, show_undoing, undoing_of
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible, Stopped, worst_of
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

_PATIENCE = 3.0
"""Seconds that a running step may keep the decision from being written."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for."""

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
    """Undo a saga: show what that would do, ask, cancel it, and wait until it is undone.

    Undoing runs the compensation of each step that is done, the last one first. Past a step that cannot be undone
    nothing is: then this says so, and the saga goes on to its end. What had ended before is told as it ended.

    The exit code tells what became of the saga: 1 cancelled or failed, 0 completed (or cancelled with --no-wait and
    accepted), 4 not finished within the timeout, 2 not possible as it stands, and then nothing was done.

    \b
    Examples:
      orchestrator cancel order-17
      orchestrator cancel order-17 --yes --timeout 10 --json
      orchestrator cancel order-17 --orchestrator MoneyTransfer --no-wait
    """
    wish = _Wish(Settings(), Output(as_json), wait, timeout)
    found, catalog = asyncio.run(_look(wish, event_id))
    saga = found.chosen(orchestrator)
    if saga is None:
        return tell_ended(found, orchestrator, wish.output)
    plan = undoing_of(saga.saga, catalog)
    if saga.saga is not None and saga.saga.phase is Phase.UNDOING:
        _say_it_is_being_undone(saga, plan, wish.output)
    else:
        _refuse_past_pivot(saga, wish.output)
        _show(saga, plan, wish.output)
        ask("Undo it?", wish.output, is_agreed=yes)
    return asyncio.run(_cancel(wish, saga, plan))


def tell_ended(found: Found, orchestrator: str | None, output: Output) -> Exit:
    """Say how sagas ended that there is nothing left to do about; their exit code."""
    ended = [one for one in found.standings if orchestrator in (None, one.orchestrator)]
    for one in ended:
        output.say(f"{one.workflow_id} had ended before; nothing was done.")
        if one.saga is None:
            output.state(one.phase, one.why or "")
        else:
            tell_outcome(one, output)
    if output.as_json:
        output.document({"did": None, "sagas": [saga_document(one) for one in ended]})
    return worst_of([one.exit for one in ended])


async def _look(wish: _Wish, event_id: str) -> tuple[Found, Catalog | None]:
    client = await connect_temporal(wish.settings)
    found = await find(wish.settings, event_id, client)
    return found, known_catalog(wish.settings)


def _refuse_past_pivot(saga: SagaDiagnosis, output: Output) -> None:
    if saga.saga is None or saga.saga.pivot is None:
        return
    pivot = next((one.shown for one in saga.saga.steps if one.number == saga.saga.pivot), "")
    named = f"step {saga.saga.pivot}{f', {pivot},' if pivot else ''}"
    say_next(saga, output)
    raise NotPossible(
        "saga.past_pivot",
        f"{saga.workflow_id} is past {named} which cannot be undone, so nothing is: it goes on until it is completed. "
        "Nothing was done",
    )


def _show(saga: SagaDiagnosis, plan: Sequence[PlannedUndo], output: Output) -> None:
    if plan:
        output.say(f"Cancelling {saga.workflow_id} undoes, the last step first:")
        show_undoing(plan, output)
    else:
        output.say(f"Cancelling {saga.workflow_id} undoes nothing: no step of it that would have to be is done.")
    if saga.is_carried:
        output.say(f"  {saga.workflow_id} carries others, too, and goes on; this one is undone by itself.")
    elif saga.is_driven:
        output.say("  A step that runs just now is waited for, and undone as well if it gets done.")
    else:
        output.say("  No execution drives it just now: one is started for the undoing.")


def _say_it_is_being_undone(saga: SagaDiagnosis, plan: Sequence[PlannedUndo], output: Output) -> None:
    assert saga.saga is not None
    ends_as = (saga.saga.ends_as or Phase.FAILED).value
    output.say(
        f"{saga.workflow_id} is being undone already, as {ends_as} ({saga.saga.error_code}: {saga.saga.message}); a "
        "cancel changes nothing."
    )
    if plan:
        output.say("These are left, the last step first:")
        show_undoing(plan, output)


async def _cancel(wish: _Wish, saga: SagaDiagnosis, plan: Sequence[PlannedUndo]) -> int:
    output, by = wish.output, this_person()
    client = await connect_temporal(wish.settings)
    try:
        if saga.saga is not None and saga.saga.phase is Phase.UNDOING:
            did = "nothing"
            if not saga.is_driven:
                did = "started"
                await send_cancel(client, wish.settings, saga, by=by)
            elif await begin_undoing_again(client, saga):
                did = "started"
        else:
            did = "cancelled"
            if saga.saga is not None:
                await _decide(wish, saga, by)
            await send_cancel(client, wish.settings, saga, by=by)
            if await begin_undoing_again(client, saga, undoes=True):
                await send_cancel(client, wish.settings, saga, by=by)
            output.state("accepted", f"the cancel of {saga.workflow_id}")
        if not wish.wait:
            output.say(f"See what becomes of it: {command('status', saga.event_id)}")
            ended, exit_code = saga, Exit.COMPLETED
        else:
            ended = await settle(
                client, wish.settings, saga, timeout_seconds=wish.timeout_seconds, output=output, begins_again=True
            )
            exit_code = tell_outcome(ended, output, timeout_seconds=wish.timeout_seconds)
    except asyncio.CancelledError:
        raise Stopped(f"Stopped; what was sent counts all the same. See: {command('status', saga.event_id)}") from None
    if output.as_json:
        output.document({"did": did, "plan": [one.as_json() for one in plan], "sagas": [saga_document(ended)]})
    return exit_code


async def _decide(wish: _Wish, saga: SagaDiagnosis, by: str) -> None:
    """Write the cancel to the database, so that it counts whatever the execution can still hear.

    A step that runs holds the saga's row. If it does for long, the execution has to decide, or recovery.
    """
    assert saga.saga is not None
    databases = Databases.at(wish.settings.resolved_database_url, wish.settings.databases)
    try:
        waits = asyncio.timeout(_PATIENCE if saga.is_driven and not saga.is_carried else None)
        try:
            async with waits:
                await cancel_saga(databases, saga.saga.id, by=by)
        except TimeoutError:
            if not waits.expired():
                raise
    finally:
        await databases.close()
