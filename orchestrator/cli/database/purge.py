"""`orchestrator purge`: deletes what ended long ago, or says what it would delete. Workers do so by themselves."""

import asyncio
import re
from datetime import datetime, timedelta
from typing import Annotated

import typer

from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.options import AsJson, Yes
from orchestrator.cli.terminal.output import Output, moment_json
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.sagas import namespace_of
from orchestrator.store.retention import Purge, database_time, purge_some, purgeable

_DAYS = re.compile(r"([1-9][0-9]{0,4})d?")


def purge(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            help="What ended longer ago, such as 90d; as set in ORCHESTRATOR_RETENTION, if not given.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Delete steps and payload of sagas that ended long ago, events that were sent, and dead letters that were settled.

    Each saga's outcome stays, so its handle still answers and a late repeat is still a repeat. What has not ended, was
    not sent or was not settled is never deleted.

    \b
    Examples:
      orchestrator purge --dry-run
      orchestrator purge --older-than 90d
      orchestrator purge --older-than 365d --yes --json
    """
    settings = Settings()
    days = _days(older_than) if older_than is not None else settings.retention
    if not days:
        raise typer.BadParameter("ORCHESTRATOR_RETENTION says that nothing is deleted: say what, with --older-than 90d")
    output = Output(as_json)
    return asyncio.run(_purge(settings, timedelta(days=days), output, dry_run=dry_run, is_agreed=yes))


async def _purge(settings: Settings, age: timedelta, output: Output, *, dry_run: bool, is_agreed: bool) -> int:
    databases = Databases.at(settings.resolved_database_url, settings.databases)
    try:
        await namespace_of(databases.home)  # tells where no worker has run yet, and creates nothing
        before = await database_time(databases.home) - age
        found = await purgeable(databases, before=before)
        _show(found, output, before, "would be deleted" if dry_run else "are to be deleted")
        done = Purge()
        if found.rows and not dry_run:
            ask("Delete them?", output, is_agreed=is_agreed)
            while (some := await purge_some(databases, before=before)).rows:
                done += some
            _show(done, output, before, "were deleted")
    finally:
        await databases.close()
    if output.as_json:
        output.document(
            {"dry_run": dry_run, "before": moment_json(before), **_document(found if dry_run else done, found)}
        )
    return Exit.COMPLETED


def _show(purge: Purge, output: Output, before: datetime, what: str) -> None:
    if not purge.rows:
        output.say(f"Nothing ended before {before:%Y-%m-%d %H:%M} UTC that is not purged.")
    else:
        output.say(
            f"Of {_some(purge.sagas, 'saga')} that ended before {before:%Y-%m-%d %H:%M} UTC the payload and "
            f"{_some(purge.steps, 'step')}, {_some(purge.outbox, 'event')} that were sent, and "
            f"{_some(purge.dead_letters, 'dead letter')} that were settled {what}."
        )
    if purge.held:
        output.remark(
            f"{_some(purge.held, 'saga')} are kept: an effect outside is still to be looked at, or a step is in a "
            "database that ORCHESTRATOR_DATABASES does not name."
        )


def _document(purge: Purge, found: Purge) -> dict[str, int]:
    return {
        "sagas": purge.sagas,
        "steps": purge.steps,
        "outbox": purge.outbox,
        "dead_letters": purge.dead_letters,
        "held": found.held,
    }


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _days(given: str) -> int:
    match = _DAYS.fullmatch(given.strip())
    if match is None:
        raise typer.BadParameter("takes a number of days, at least one, such as 90d", param_hint="--older-than")
    return int(match[1])
