"""`orchestrator locks`: shows which saga holds each lock and which sagas wait for it, from the database."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson
from orchestrator.cli.terminal.output import Output, age_text, moment_json
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.locks import HeldLock, QueuePosition, held_lock, held_locks


def locks(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="Show only this lock, with the queue of sagas that wait for it.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Show at most this many rows.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Show held locks, the sagas that hold them, and the sagas that wait; the longest queue first.

    \b
    Examples:
      orchestrator locks
      orchestrator locks user/olena
      orchestrator locks user/olena --json
    """
    held, count = asyncio.run(_read(Settings(), key, limit))
    output = Output(as_json)
    if as_json:
        output.document({"locks": [_document(lock, with_queue=key is not None) for lock in held], "held": count})
    elif key is not None:
        _print_queue(key, held, output)
    else:
        _print_locks(held, count, output)
    return 0


async def _read(settings: Settings, key: str | None, limit: int) -> tuple[Sequence[HeldLock], int]:
    database = Database(settings.resolved_database_url)
    try:
        if key is None:
            return await held_locks(database, limit=limit)
        lock = await held_lock(database, key, limit=limit)
        return ([], 0) if lock is None else ([lock], 1)
    finally:
        await database.close()


def _print_locks(held: Sequence[HeldLock], count: int, output: Output) -> None:
    if not held:
        output.line("No lock is held.")
        return
    rows = [
        (
            lock.key,
            lock.holder.event_id,
            lock.holder.orchestrator,
            lock.holder.phase.value,
            age_text(lock.holder.since),
            str(lock.waiting) if lock.waiting else "",
        )
        for lock in held
    ]
    output.table(("lock", "held by event", "orchestrator", "phase", "since", "waiting"), rows)
    output.line()
    output.line(f"{count} held" if count == len(held) else f"{len(held)} of {count} held locks")
    output.line(f"See which sagas wait: {command('locks', held[0].key)}")


def _print_queue(key: str, held: Sequence[HeldLock], output: Output) -> None:
    if not held:
        output.line(f"No saga holds the lock {key}. See which locks are held: {command('locks')}")
        return
    [lock] = held
    queue = [("holds", lock.holder), *((str(number), waiting) for number, waiting in enumerate(lock.queue, start=1))]
    rows = [
        (number, saga.event_id, saga.orchestrator, saga.phase.value, age_text(saga.since)) for number, saga in queue
    ]
    output.table(("position", "event id", "orchestrator", "phase", "since"), rows)
    output.line()
    not_shown = lock.waiting - len(lock.queue)
    output.line(f"{lock.waiting} waiting" + (f", {not_shown} of them not shown" if not_shown > 0 else ""))
    output.line(f"See what the lock's holder does: {command('status', lock.holder.event_id)}")


def _document(lock: HeldLock, *, with_queue: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"key": lock.key, "holder": _saga_document(lock.holder), "waiting": lock.waiting}
    return document | ({"queue": [_saga_document(saga) for saga in lock.queue]} if with_queue else {})


def _saga_document(saga: QueuePosition) -> dict[str, Any]:
    return {
        "event_id": saga.event_id,
        "orchestrator": saga.orchestrator,
        "phase": saga.phase.value,
        "since": moment_json(saga.since),
    }
