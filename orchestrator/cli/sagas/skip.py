"""`orchestrator skip`: a step is left as it is, with who said so and why, and its saga goes on."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

import typer

from orchestrator.cli.sagas.cancel import tell_ended
from orchestrator.cli.sagas.diagnosis import Found, SagaDiagnosis, find, known_catalog
from orchestrator.cli.sagas.nudge import send_retry
from orchestrator.cli.sagas.outcome_wait import settle, tell_outcome
from orchestrator.cli.sagas.status import saga_document
from orchestrator.cli.sagas.undo_plan import planned, show_undoing, undoing_of
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible, Stopped
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, EventId, OrchestratorName, Wait, WaitSeconds, Yes
from orchestrator.cli.terminal.output import Output
from orchestrator.cli.terminal.person import this_person
from orchestrator.client import connect_temporal
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.sagas import SagaView, StepView
from orchestrator.store.saga.intervention import Skip, Skipped, check_skip, skip_step


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for."""

    settings: Settings
    output: Output
    number: int
    reason: str
    by: str
    wait: bool
    timeout_seconds: float


def skip(
    event_id: EventId,
    step: Annotated[int, typer.Argument(metavar="STEP", min=1, help="Its number, as `status` shows it.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept and shown.")],
    by: Annotated[
        str | None, typer.Option("--as", metavar="WHO", help="Who says so; your user name if not given.")
    ] = None,
    orchestrator: OrchestratorName = None,
    yes: Yes = False,
    wait: Wait = True,
    timeout: WaitSeconds = 60.0,
    as_json: AsJson = False,
) -> int:
    """Leave a step as it is: its saga goes on without it. For a compensation that cannot be done any more.

    While a saga is undone, a step whose effect still stands is not undone any more; the failed event says that it was
    skipped. Past a step that cannot be undone, one that cannot be done is left out, if `handle` needs no result of it.
    Shows what stays, asks, and waits for the saga's outcome.

    The exit code tells what became of the saga: 1 failed or cancelled, 0 completed (or skipped with --no-wait), 4 not
    finished within the timeout, 2 not possible as the step stands, and then nothing was changed.

    \b
    Examples:
      orchestrator skip order-17 2 --reason "paid back by hand, ticket 4711"
      orchestrator skip order-17 2 --reason "account was closed" --as olena --yes --json
    """
    for name, text in (("--reason", reason), ("--as", by)):
        if text is not None and not any(one.isalnum() for one in text):
            raise typer.BadParameter(f"{name} is kept for whoever asks later: write some words")
    wish = _Wish(Settings(), Output(as_json), step, reason.strip(), (by or this_person()).strip(), wait, timeout)
    found, catalog = asyncio.run(_look(wish, event_id))
    saga = found.chosen(orchestrator)
    if saga is None:
        return tell_ended(found, orchestrator, wish.output)
    if saga.saga is None:
        raise NotPossible(
            "saga.not_skippable", f"{saga.workflow_id} has nothing in the database yet, so there is no step to skip"
        )
    known = catalog or Catalog.of(orchestrators=[])
    asyncio.run(_check(wish, saga.saga, known))
    skipped = next(one for one in saga.saga.steps if one.number == step)
    if skipped.state is not StepState.SKIPPED:
        _show(saga, saga.saga, skipped, known, wish.output)
        ask("Skip it?", wish.output, is_agreed=yes)
    return asyncio.run(_skip(wish, saga, saga.saga, known))


async def _look(wish: _Wish, event_id: str) -> tuple[Found, Catalog | None]:
    client = await connect_temporal(wish.settings)  # before anything is changed that an execution must hear of
    found = await find(wish.settings, event_id, client)
    return found, known_catalog(wish.settings)


async def _check(wish: _Wish, saga: SagaView, catalog: Catalog) -> None:
    database = Database(wish.settings.resolved_database_url)
    try:
        await check_skip(database, catalog, saga.id, wish.number)
    finally:
        await database.close()


def _show(saga: SagaDiagnosis, row: SagaView, step: StepView, catalog: Catalog, output: Output) -> None:
    one = planned(step, catalog)
    if row.phase is Phase.UNDOING:
        output.say(f"Skipping step {step.number} of {saga.workflow_id} leaves this as it is:")
        output.say(f"  done           {one.call}")
        output.say(f"  it gave        {step.result or 'nothing'}")
        output.say(f"  not run        {one.compensation or 'its compensation'}")
        if step.undo_error:
            output.say(f"  it failed with {step.undo_error}")
        left = [other for other in undoing_of(row, catalog) if other.number != step.number]
        if left:
            output.say("Undone all the same, the last step first:")
            show_undoing(left, output)
        return
    output.say(f"Skipping step {step.number} of {saga.workflow_id} goes on without this:")
    output.say(f"  not done       {one.call}")
    if row.stuck_step == step.number and row.stuck_error:
        output.say(f"  it failed with {row.stuck_error}")


async def _skip(wish: _Wish, saga: SagaDiagnosis, row: SagaView, catalog: Catalog) -> int:
    output = wish.output
    client = await connect_temporal(wish.settings)
    try:
        skipped = await _decide(wish, row, catalog)
        if skipped.before:
            output.say(f"Step {wish.number} was skipped before, by {skipped.by}: {skipped.reason}")
        else:
            output.state("skipped", f"step {wish.number}, by {skipped.by}: {skipped.reason}")
        await send_retry(client, wish.settings, saga)
        if not wish.wait:
            output.say(f"See what becomes of it: {command('status', saga.event_id)}")
            ended, exit_code = saga, Exit.COMPLETED
        else:
            ended = await settle(
                client,
                wish.settings,
                saga,
                timeout_seconds=wish.timeout_seconds,
                output=output,
                known={wish.number: StepState.SKIPPED},
                begins_again=True,
            )
            exit_code = tell_outcome(ended, output, timeout_seconds=wish.timeout_seconds)
    except asyncio.CancelledError:
        raise Stopped(f"Stopped; see whether it was skipped: {command('status', saga.event_id)}") from None
    if output.as_json:
        output.document(
            {
                "did": "nothing" if skipped.before else "skipped",
                "skipped_by": skipped.by,
                "skip_reason": skipped.reason,
                "sagas": [saga_document(ended)],
            }
        )
    return exit_code


async def _decide(wish: _Wish, row: SagaView, catalog: Catalog) -> Skipped:
    databases = Databases.at(wish.settings.resolved_database_url, wish.settings.databases)
    try:
        return await skip_step(
            databases, catalog, Skip(saga_id=row.id, number=wish.number, by=wish.by, reason=wish.reason)
        )
    finally:
        await databases.close()
