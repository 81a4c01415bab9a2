"""`orchestrator outbox`: events that wait to be sent, from the databases alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.invocation import worker_command
from orchestrator.cli.terminal.options import AsJson
from orchestrator.cli.terminal.output import Output, ago, moment_json
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.outbox import Waiting, WaitingGroup, waiting, waiting_groups


@dataclass(frozen=True, slots=True)
class _Found:
    """What waits in one database."""

    name: str
    waiting: Waiting
    groups: Sequence[WaitingGroup]


def outbox(
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="How many of the oldest events are looked at.")
    ] = 1_000,
    as_json: AsJson = False,
) -> int:
    """Show events that wait to be sent, by type and key: how many, since when, and why; the oldest first.

    \b
    Examples:
      orchestrator outbox
      orchestrator outbox --json
    """
    found = asyncio.run(_read(Settings(), limit))
    output = Output(as_json)
    if as_json:
        output.document({"databases": [_document(one) for one in found]})
    else:
        _show(found, output)
    return 0


async def _read(settings: Settings, limit: int) -> list[_Found]:
    databases = Databases.at(settings.resolved_database_url, settings.databases, pool_size=1)
    try:
        found: list[_Found] = []
        for name, database in databases:
            groups = await waiting_groups(database, limit=limit)
            found.append(_Found(name, await waiting(database), groups))
        return found
    finally:
        await databases.close()


def _show(found: Sequence[_Found], output: Output) -> None:
    count = sum(one.waiting.count for one in found)
    if not count:
        output.say("Nothing waits to be sent.")
        return
    rows = [
        (group.event_type, group.key or "", one.name, str(group.count), ago(group.oldest), *_tried(group))
        for one in found
        for group in one.groups
    ]
    output.table(("event", "key", "database", "waiting", "oldest", "tries", "last error"), rows)
    output.say()
    shown = sum(group.count for one in found for group in one.groups)
    output.say(f"{count} waiting" + (f", of which the oldest {shown} are shown" if shown < count else ""))
    output.say(f"They are sent by a worker, as soon as one runs: {worker_command()}")


def _tried(group: WaitingGroup) -> tuple[str, str]:
    return str(group.attempts) if group.attempts else "", group.error or ""


def _document(found: _Found) -> dict[str, Any]:
    return {
        "database": found.name,
        "waiting": found.waiting.count,
        "lag_seconds": found.waiting.lag.total_seconds(),
        "groups": [
            {
                "event_type": group.event_type,
                "key": group.key,
                "waiting": group.count,
                "oldest": moment_json(group.oldest),
                "attempts": group.attempts,
                "error": group.error,
            }
            for group in found.groups
        ],
    }
