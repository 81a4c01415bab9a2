"""`orchestrator locks`: who holds each lock and who waits for it, from the database alone."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output, ago, moment_json
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.locks import HeldLock, QueuePosition, held_lock, held_locks


def locks(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="One lock, with the line of those who wait for it.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many rows at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:
    """Show locks that are held, by whom, and who waits; the longest line first.

    \b
    Examples:
      orchestrator locks
      orchestrator locks user/olena
      orchestrator locks user/olena --json
    """
    settings = Settings()
    found, held = asyncio.run(_read(settings, key, limit))
    output = Output(as_json)
    if as_json:
        output.document({"locks": [_document(one, with_queue=key is not None) for one in found], "held": held})
    elif key is not None:
        _show_line(key, found, output)
    else:
        _show(found, held, output)
    return 0


async def _read(settings: Settings, key: str | None, limit: int) -> tuple[Sequence[HeldLock], int]:
    database = Database(settings.resolved_database_url)
    try:
        if key is None:
            return await held_locks(database, limit=limit)
        one = await held_lock(database, key, limit=limit)
        return ([], 0) if one is None else ([one], 1)
    finally:
        await database.close()


def _show(found: Sequence[HeldLock], held: int, output: Output) -> None:
    if not found:
        output.say("No lock is held.")
        return
    rows = [
        (one.key, one.holder.event_id, one.holder.orchestrator, _state(one.holder), ago(one.holder.since), _count(one))
        for one in found
    ]
    output.table(("lock", "held by event", "orchestrator", "phase", "since", "waiting"), rows)
    output.say()
    output.say(f"{held} held" if held == len(found) else f"{len(found)} of {held} that are held")
    output.say(f"See who waits: {command('locks', found[0].key)}")


def _show_line(key: str, found: Sequence[HeldLock], output: Output) -> None:
    if not found:
        output.say(f"Nobody holds the lock {key}. See which are held: {command('locks')}")
        return
    [lock] = found
    line = [("holds", lock.holder), *((str(number), place) for number, place in enumerate(lock.queue, start=1))]
    rows = [(number, one.event_id, one.orchestrator, _state(one), ago(one.since)) for number, one in line]
    output.table(("place", "event id", "orchestrator", "phase", "since"), rows)
    output.say()
    left = lock.waiting - len(lock.queue)
    output.say(f"{lock.waiting} waiting" + (f", {left} of them not shown" if left > 0 else ""))
    output.say(f"See what the holder does: {command('status', lock.holder.event_id)}")


def _count(lock: HeldLock) -> str:
    return str(lock.waiting) if lock.waiting else ""


def _state(place: QueuePosition) -> str:
    return place.phase.value


def _document(lock: HeldLock, *, with_queue: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"key": lock.key, "holder": _place(lock.holder), "waiting": lock.waiting}
    return document | ({"queue": [_place(one) for one in lock.queue]} if with_queue else {})


def _place(place: QueuePosition) -> dict[str, Any]:
    return {
        "event_id": place.event_id,
        "orchestrator": place.orchestrator,
        "phase": place.phase.value,
        "since": moment_json(place.since),
    }
