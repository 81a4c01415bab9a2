"""`orchestrator recover`: a recovery now, or what one would do."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.options import LONGEST, AsJson, finite
from orchestrator.cli.terminal.output import Output
from orchestrator.client import connect_temporal
from orchestrator.client.task_queues import OtherQueue, other_queues
from orchestrator.definition.catalog import Catalog
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.sagas import namespace_of
from orchestrator.workflow.system.recovery import Action, Sweep


def recover(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="First make the database belong to this Temporal. Only where the other is lost."),
    ] = False,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            max=LONGEST,
            callback=finite,
            help="Silence after which a saga is looked at; as set, if not given.",
        ),
    ] = None,
    from_task_queue: Annotated[
        str | None,
        typer.Option(
            "--from-task-queue",
            metavar="OLD",
            help="First move what runs on this task queue to the one that is set, after it was renamed.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Look for sagas that nobody drives any more, and see that they end. Workers do so by themselves, by a schedule.

    A saga whose execution was terminated is undone; past its pivot, and after any other end, it goes on. Events that
    an execution had not taken when it was cut off are published again.

    \b
    Examples:
      orchestrator recover --dry-run
      orchestrator recover --grace 0
      orchestrator recover --adopt            after Temporal was lost and set up anew
      orchestrator recover --from-task-queue old --dry-run
    """
    if adopt and dry_run:
        raise typer.BadParameter("--adopt changes what the database belongs to; with --dry-run nothing is changed")
    settings = Settings()
    if from_task_queue == settings.task_queue:
        raise typer.BadParameter(
            f"{from_task_queue} is the task queue that is set: set ORCHESTRATOR_TASK_QUEUE to the new one"
        )
    recovering = _recover(settings, grace, dry_run=dry_run, adopt=adopt, from_task_queue=from_task_queue)
    swept, others = asyncio.run(recovering)
    output = Output(as_json)
    if as_json:
        output.document(_document(swept, others, dry_run=dry_run))
    else:
        _show(swept, output, dry_run=dry_run)
    for queue in others:
        output.remark(f"{queue}")
    return Exit.COMPLETED


async def _recover(
    settings: Settings, grace: float | None, *, dry_run: bool, adopt: bool, from_task_queue: str | None
) -> tuple[Sweep, list[OtherQueue]]:
    # Here, not above: no other command waits for what a worker needs.
    from orchestrator.worker.recovery.limits import Limits
    from orchestrator.worker.recovery.sweep import Recovery

    limits = Limits.of(settings)
    if grace is not None:
        limits = replace(limits, grace=timedelta(seconds=grace))
    elif from_task_queue is not None:
        limits = replace(limits, grace=timedelta())  # sagas of partitions that are moved have been silent for no time
    catalog = Catalog.discover(settings.packages)
    databases = Databases.at(settings.resolved_database_url, settings.databases)
    try:
        await namespace_of(databases.home)  # tells where no worker has run yet, and creates nothing
        client = await connect_temporal(settings)
        recovery = Recovery(client, databases, catalog, task_queue=settings.task_queue, limits=limits)
        if adopt:
            await recovery.adopt()
        swept = await recovery.sweep(dry_run=dry_run, moves_from=from_task_queue)
        return swept, await other_queues(client, catalog.orchestrators, settings.task_queue)
    finally:
        await databases.close()


def _show(swept: Sweep, output: Output, *, dry_run: bool) -> None:
    rows = [(one.workflow_id, _word(one.action), one.why) for one in swept.findings]
    if rows:
        output.table(("saga", "would be" if dry_run else "was", "because"), rows)
        output.say()
    output.say(
        f"{swept.looked_at} sagas were silent, {swept.alive} of them are driven; "
        f"{sum(swept.counts[action] for action in Action if action.changes)} "
        f"{'would be' if dry_run else 'were'} acted upon."
    )
    if (untold := sum(swept.counts.values()) - len(swept.findings)) > 0:
        output.say(f"{untold} more findings are counted and not listed.")
    if swept.has_more:
        output.say("More sagas were silent than one recovery looks at. The next one begins with those that are left.")


def _word(action: Action) -> str:
    match action:
        case Action.UNDO:
            return "undone"
        case Action.RESUME:
            return "resumed"
        case Action.PUBLISH:
            return "published again"
        case Action.KEEP:
            return "kept as a dead letter"
        case Action.TAKE_BACK:
            return "taken back outside"
        case Action.LEAVE:
            return "left"
        case Action.POSTPONE:
            return "left for the next time"
        case Action.FAIL:
            return "looked at in vain"


def _document(swept: Sweep, others: Sequence[OtherQueue], *, dry_run: bool) -> dict[str, Any]:
    queues = [{"task_queue": one.task_queue, "executions": one.executions} for one in others]
    return {"dry_run": dry_run, **swept.model_dump(mode="json"), "other_task_queues": queues}
