"""`orchestrator list`: the newest sagas, from the database alone; with `--parked`, from Temporal alone."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestrator.cli.sagas.parked import Parked, parked_events
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output, ago, moment_json
from orchestrator.client import connect_temporal
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.names import own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import Counts, Position, SagaView, counts, list_sagas


def list_(
    phase: Annotated[Phase | None, typer.Option("--phase", help="Only sagas that stand there.")] = None,
    orchestrator: Annotated[
        str | None, typer.Option("--orchestrator", metavar="NAME", help="Only this orchestrator's, e.g. MoneyTransfer.")
    ] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only sagas that wait for a person.")] = False,
    parked: Annotated[
        bool, typer.Option("--parked", help="Events that wait for a worker of newer code; asks Temporal.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 20,
    after: Annotated[
        str | None, typer.Option("--after", metavar="POSITION", help="The next page, as the page before names it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:
    """List sagas, the newest first.

    \b
    Examples:
      orchestrator list
      orchestrator list --stuck
      orchestrator list --parked
      orchestrator list --phase failed --limit 100
      orchestrator list --orchestrator MoneyTransfer --json
      orchestrator list --after 20261130T162933.123456Z-5f0c7d625d0e4a389d0b6f6d8f8f4f6e
    """
    settings = Settings()
    position = _position(after)
    if parked:
        found = asyncio.run(_read_parked(settings, orchestrator, limit))
        _show_parked(found, Output(as_json))
        return 0
    sagas, counted = asyncio.run(_read(settings, phase, orchestrator, stuck, limit, position))
    following = str(Position(sagas[-1].created_at, sagas[-1].id)) if len(sagas) == limit else None
    output = Output(as_json)
    if as_json:
        output.document(
            {
                "sagas": [_document(one) for one in sagas],
                "counts": {phase.value: number for phase, number in counted.items()},
                "ended_counted_among": counted.newest,
                "next": following,
            }
        )
    else:
        _show(sagas, counted, output, is_filtered=bool(phase or orchestrator or stuck or after))
        if following is not None:
            output.say(f"the next page: the same command with --after {following}")
    return 0


async def _read(
    settings: Settings, phase: Phase | None, orchestrator: str | None, stuck: bool, limit: int, after: Position | None
) -> tuple[Sequence[SagaView], Counts]:
    database = Database(settings.resolved_database_url)
    try:
        return (
            await list_sagas(database, phase=phase, orchestrator=orchestrator, stuck=stuck, limit=limit, after=after),
            await counts(database, orchestrator=orchestrator),
        )
    finally:
        await database.close()


async def _read_parked(settings: Settings, orchestrator: str | None, limit: int) -> Sequence[Parked]:
    return await parked_events(await connect_temporal(settings), orchestrator=orchestrator, limit=limit)


def _show_parked(found: Sequence[Parked], output: Output) -> None:
    if output.as_json:
        output.document({"parked": [{**asdict(one), "since": moment_json(one.since)} for one in found]})
    elif not found:
        output.say("No event waits for newer code.")
    else:
        rows = [(one.event_id, one.orchestrator, "parked", ago(one.since), one.why) for one in found]
        output.table(("event id", "orchestrator", "phase", "age", "why"), rows)


def _show(sagas: Sequence[SagaView], counted: Counts, output: Output, *, is_filtered: bool) -> None:
    if not sagas and is_filtered:
        output.say(f"No such sagas. All of them: {command('list')}")
        return
    if not sagas:
        output.say(f"No sagas yet. See which events start one: {command('events')}")
        return
    rows = [
        (
            one.event_id,
            one.orchestrator,
            _state(one),
            one.error_code or "",
            ago(one.created_at),
        )
        for one in sagas
    ]
    output.table(("event id", "orchestrator", "phase", "error", "age"), rows)
    output.say()
    output.say(_told_counts(counted))


def _told_counts(counted: Counts) -> str:
    def told(phases: Iterable[Phase]) -> str:
        return ", ".join(f"{counted[phase]} {phase.value}" for phase in phases if counted[phase])

    if counted.newest is None:
        return told(Phase)
    unfinished = told(phase for phase in Phase if not phase.is_final)
    ended = told(phase for phase in Phase if phase.is_final)
    return "; ".join(part for part in (unfinished, f"of the newest {counted.newest}: {ended}") if part)


def _position(after: str | None) -> Position | None:
    if after is None:
        return None
    try:
        return Position.parse(after)
    except ValueError as fault:
        raise typer.BadParameter(
            f"--after {after!r} is no position in the list: copy it from the last line of the page before"
        ) from fault


def _state(saga: SagaView) -> str:
    if saga.is_stuck:
        return "stuck"
    return "waiting" if saga.is_waiting else saga.phase.value


def _document(saga: SagaView) -> dict[str, Any]:
    return {
        "event_id": saga.event_id,
        "event_type": saga.event_type,
        "orchestrator": saga.orchestrator,
        "workflow_id": own_workflow_id(saga.orchestrator, saga.event_id),
        "phase": saga.phase.value,
        "is_stuck": saga.is_stuck,
        "is_waiting": saga.is_waiting,
        "error_code": saga.error_code,
        "message": saga.message,
        "created_at": moment_json(saga.created_at),
        "finished_at": moment_json(saga.finished_at),
    }
