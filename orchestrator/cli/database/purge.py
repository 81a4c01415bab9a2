"""`orchestrator purge`: deletes old data, or shows what it would delete. Workers do so regularly by themselves."""

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
            help="Delete data of sagas that ended longer ago than this, e.g. 90d. Default: ORCHESTRATOR_RETENTION.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Delete steps and payload of sagas that ended long ago, with old events that were sent and settled dead letters.

    Each saga's outcome is kept, so that its handle still answers and a repeated event is still recognised. Sagas that
    have not ended, events that have not been sent, and open dead letters are never deleted.

    \b
    Examples:
      orchestrator purge --dry-run
      orchestrator purge --older-than 90d
      orchestrator purge --older-than 365d --yes --json
    """
    settings = Settings()
    days = _days(older_than) if older_than is not None else settings.retention
    if not days:
        raise typer.BadParameter(
            "Nothing was deleted, because ORCHESTRATOR_RETENTION is not set. Give an age, for example --older-than 90d"
        )
    output = Output(as_json)
    return asyncio.run(_purge(settings, timedelta(days=days), output, dry_run=dry_run, is_agreed=yes))


async def _purge(settings: Settings, age: timedelta, output: Output, *, dry_run: bool, is_agreed: bool) -> int:
    databases = Databases.at(settings.resolved_database_url, settings.databases)
    try:
        await namespace_of(databases.home)  # Fails if no worker has created the tables; creates nothing.
        before = await database_time(databases.home) - age
        expected = await purgeable(databases, before=before)
        _print_purge(expected, output, before, "would be deleted" if dry_run else "are to be deleted")
        deleted = Purge()
        if expected.rows and not dry_run:
            ask("Delete them?", output, is_agreed=is_agreed)
            while (batch := await purge_some(databases, before=before)).rows:
                deleted += batch
            _print_purge(deleted, output, before, "were deleted")
    finally:
        await databases.close()
    if output.as_json:
        counts = _document(expected if dry_run else deleted, expected)
        output.document({"dry_run": dry_run, "before": moment_json(before), **counts})
    return Exit.COMPLETED


def _print_purge(purge: Purge, output: Output, before: datetime, verb: str) -> None:
    if not purge.rows:
        output.line(f"There is no data older than {before:%Y-%m-%d %H:%M} UTC to delete.")
    else:
        output.line(
            f"The payload and {_count(purge.steps, 'step')} of {_count(purge.sagas, 'saga')} that ended before "
            f"{before:%Y-%m-%d %H:%M} UTC, {_count(purge.outbox, 'sent event')}, and "
            f"{_count(purge.dead_letters, 'settled dead letter')} {verb}."
        )
    if purge.held:
        output.remark(
            f"{_count(purge.held, 'saga')} cannot be purged yet, because an external effect of the saga is still to be "
            "checked, or a step is in a database that is not in ORCHESTRATOR_DATABASES."
        )


def _document(purge: Purge, expected: Purge) -> dict[str, int]:
    return {
        "sagas": purge.sagas,
        "steps": purge.steps,
        "outbox": purge.outbox,
        "dead_letters": purge.dead_letters,
        "held": expected.held,
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _days(text: str) -> int:
    match = _DAYS.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(
            f"must be a number of days, at least one, such as 90d, not {text!r}", param_hint="--older-than"
        )
    return int(match[1])
