"""`orchestrator recover`: runs recovery now, or shows what it would do."""

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
from orchestrator.client.executions.task_queues import OtherQueue, other_queues
from orchestrator.definition.catalog import Catalog
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.sagas import namespace_of
from orchestrator.workflow.system.recovery import Action, Sweep


def recover(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="First assign the database to this Temporal server. Only if the server it belonged to is lost.",
        ),
    ] = False,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            max=LONGEST,
            callback=finite,
            help="Look at sagas that have made no progress for this long. Default: the setting.",
        ),
    ] = None,
    from_task_queue: Annotated[
        str | None,
        typer.Option(
            "--from-task-queue",
            metavar="OLD",
            help="After the task queue was renamed: first move what runs on the old one to the current one.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Find stalled sagas, which have no live driver, and resume or undo them. Workers do this regularly by themselves.

    A saga whose execution was terminated is undone; past its point of no return, or if its execution ended in another
    way, it is resumed. Events that an execution had received but not processed when it was cut off are published again.

    \b
    Examples:
      orchestrator recover --dry-run
      orchestrator recover --grace 0
      orchestrator recover --adopt            after Temporal was lost and set up anew
      orchestrator recover --from-task-queue old --dry-run
    """
    if adopt and dry_run:
        raise typer.BadParameter(
            "--adopt assigns the database to this Temporal server, but --dry-run changes nothing. Give only one of them"
        )
    settings = Settings()
    if from_task_queue == settings.task_queue:
        raise typer.BadParameter(
            f"{from_task_queue} is the current task queue. Set ORCHESTRATOR_TASK_QUEUE to the new one first"
        )
    sweep, other = asyncio.run(_recover(settings, grace, dry_run=dry_run, adopt=adopt, from_task_queue=from_task_queue))
    output = Output(as_json)
    if as_json:
        output.document(_document(sweep, other, dry_run=dry_run))
    else:
        _print_sweep(sweep, output, dry_run=dry_run)
    for queue in other:
        output.remark(str(queue))
    return Exit.COMPLETED


async def _recover(
    settings: Settings, grace: float | None, *, dry_run: bool, adopt: bool, from_task_queue: str | None
) -> tuple[Sweep, list[OtherQueue]]:
    # Imported here, so that other commands need not load the worker's modules.
    from orchestrator.worker.recovery.limits import Limits
    from orchestrator.worker.recovery.sweep import Recovery

    limits = Limits.of(settings)
    if grace is not None:
        limits = replace(limits, grace=timedelta(seconds=grace))
    elif from_task_queue is not None:
        # The sagas of moved partitions must be found at once, although they had progress just before the move.
        limits = replace(limits, grace=timedelta())
    catalog = Catalog.discover(settings.packages)
    databases = Databases.at(settings.resolved_database_url, settings.databases)
    try:
        await namespace_of(databases.home)  # Fails if no worker has created the tables; creates nothing.
        client = await connect_temporal(settings)
        recovery = Recovery(client, databases, catalog, task_queue=settings.task_queue, limits=limits)
        if adopt:
            await recovery.adopt()
        sweep = await recovery.sweep(dry_run=dry_run, moves_from=from_task_queue)
        return sweep, await other_queues(client, catalog.orchestrators, settings.task_queue)
    finally:
        await databases.close()


def _print_sweep(sweep: Sweep, output: Output, *, dry_run: bool) -> None:
    rows = [(finding.workflow_id, _past_participle(finding.action), finding.why) for finding in sweep.findings]
    if rows:
        output.table(("saga", "would be" if dry_run else "was", "because"), rows)
        output.line()
    changed = sum(sweep.counts[action] for action in Action if action.changes)
    output.line(
        f"{sweep.looked_at} sagas had no progress; {sweep.alive} of them have a driver; {changed} "
        f"{'would be' if dry_run else 'were'} changed."
    )
    if (unlisted := sum(sweep.counts.values()) - len(sweep.findings)) > 0:
        output.line(f"{unlisted} more findings are counted but not listed.")
    if sweep.has_more:
        output.line("This recovery checked as many sagas as it may. The next one begins with the remaining sagas.")


def _past_participle(action: Action) -> str:
    match action:
        case Action.UNDO:
            return "undone"
        case Action.RESUME:
            return "resumed"
        case Action.PUBLISH:
            return "published again"
        case Action.KEEP:
            return "stored as a dead letter"
        case Action.TAKE_BACK:
            return "undone at its service"
        case Action.LEAVE:
            return "left unchanged"
        case Action.POSTPONE:
            return "left for the next recovery"
        case Action.FAIL:
            return "not recovered"


def _document(sweep: Sweep, other: Sequence[OtherQueue], *, dry_run: bool) -> dict[str, Any]:
    queues = [{"task_queue": queue.task_queue, "executions": queue.executions} for queue in other]
    return {"dry_run": dry_run, **sweep.model_dump(mode="json"), "other_task_queues": queues}
