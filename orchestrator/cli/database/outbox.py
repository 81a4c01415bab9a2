"""`orchestrator outbox`: shows events that have not been sent yet, from the databases."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.invocation import worker_command
from orchestrator.cli.terminal.options import AsJson
from orchestrator.cli.terminal.output import Output, age_text, moment_json
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.outbox import Waiting, WaitingGroup, waiting, waiting_groups


@dataclass(frozen=True, slots=True)
class _Unsent:
    """The unsent events of one database."""

    database: str
    waiting: Waiting
    groups: Sequence[WaitingGroup]


def outbox(
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="Look at no more than this many of the oldest events.")
    ] = 1_000,
    as_json: AsJson = False,
) -> int:
    """Show events that have not been sent yet, by type and key: how many, since when, and why; the oldest first.

    \b
    Examples:
      orchestrator outbox
      orchestrator outbox --json
    """
    unsent = asyncio.run(_read(Settings(), limit))
    output = Output(as_json)
    if as_json:
        output.document({"databases": [_document(database) for database in unsent]})
    else:
        _print_unsent(unsent, output)
    return 0


async def _read(settings: Settings, limit: int) -> list[_Unsent]:
    databases = Databases.at(settings.resolved_database_url, settings.databases, pool_size=1)
    try:
        unsent: list[_Unsent] = []
        for name, database in databases:
            groups = await waiting_groups(database, limit=limit)
            unsent.append(_Unsent(name, await waiting(database), groups))
        return unsent
    finally:
        await databases.close()


def _print_unsent(unsent: Sequence[_Unsent], output: Output) -> None:
    count = sum(events.waiting.count for events in unsent)
    if not count:
        output.line("No event is waiting to be sent.")
        return
    rows = [
        (
            group.event_type,
            group.key or "",
            events.database,
            str(group.count),
            age_text(group.oldest),
            str(group.attempts) if group.attempts else "",
            group.error or "",
        )
        for events in unsent
        for group in events.groups
    ]
    output.table(("event", "key", "database", "waiting", "oldest", "attempts", "last error"), rows)
    output.line()
    shown = sum(group.count for events in unsent for group in events.groups)
    output.line(f"{count} waiting" + (f", of which the oldest {shown} are shown" if shown < count else ""))
    output.line(f"A running worker sends them. If none runs, start one: {worker_command()}")


def _document(events: _Unsent) -> dict[str, Any]:
    return {
        "database": events.database,
        "waiting": events.waiting.count,
        "lag_seconds": events.waiting.lag.total_seconds(),
        "groups": [
            {
                "event_type": group.event_type,
                "key": group.key,
                "waiting": group.count,
                "oldest": moment_json(group.oldest),
                "attempts": group.attempts,
                "error": group.error,
            }
            for group in events.groups
        ],
    }
