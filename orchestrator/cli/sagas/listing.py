"""`orchestrator list`: lists the newest sagas from the database or, with `--parked`, parked events from Temporal."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from orchestrator.cli.diagnosis.parked import Parked, parked_events
from orchestrator.cli.diagnosis.saga import shown_phase
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson
from orchestrator.cli.terminal.output import Output, age_text, moment_json
from orchestrator.client import connect_temporal
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.names import own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import Counts, Position, SagaView, counts, list_sagas


def list_(
    phase: Annotated[Phase | None, typer.Option("--phase", help="Only sagas in this phase.")] = None,
    orchestrator: Annotated[
        str | None,
        typer.Option("--orchestrator", metavar="NAME", help="Only sagas of this orchestrator, e.g. MoneyTransfer."),
    ] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only sagas that need a person.")] = False,
    parked: Annotated[
        bool, typer.Option("--parked", help="Only events that wait for a worker with newer code (asks Temporal).")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="List at most this many.")] = 20,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="POSITION", help="Continue after this position, which the previous page printed."
        ),
    ] = None,
    as_json: AsJson = False,
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
        events = asyncio.run(_read_parked(settings, orchestrator, limit))
        _print_parked(events, Output(as_json))
        return 0
    sagas, counted = asyncio.run(_read(settings, phase, orchestrator, stuck, limit, position))
    following = str(Position(sagas[-1].created_at, sagas[-1].id)) if len(sagas) == limit else None
    output = Output(as_json)
    if as_json:
        output.document(
            {
                "sagas": [_document(saga) for saga in sagas],
                "counts": {phase.value: number for phase, number in counted.items()},
                "ended_counted_among": counted.newest,
                "next": following,
            }
        )
    else:
        _print_sagas(sagas, counted, output, is_filtered=bool(phase or orchestrator or stuck or after))
        if following is not None:
            output.line(f"For the next page, repeat the command with --after {following}")
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


def _print_parked(events: Sequence[Parked], output: Output) -> None:
    if output.as_json:
        output.document({"parked": [{**asdict(event), "since": moment_json(event.since)} for event in events]})
    elif not events:
        output.line("No event waits for newer code.")
    else:
        rows = [(event.event_id, event.orchestrator, "parked", age_text(event.since), event.why) for event in events]
        output.table(("event id", "orchestrator", "phase", "age", "why"), rows)


def _print_sagas(sagas: Sequence[SagaView], counted: Counts, output: Output, *, is_filtered: bool) -> None:
    if not sagas and is_filtered:
        output.line(f"No saga matches. To list all: {command('list')}")
        return
    if not sagas:
        output.line(f"There are no sagas yet. See which events start one: {command('events')}")
        return
    rows = [
        (saga.event_id, saga.orchestrator, shown_phase(saga), saga.error_code or "", age_text(saga.created_at))
        for saga in sagas
    ]
    output.table(("event id", "orchestrator", "phase", "error", "age"), rows)
    output.line()
    output.line(_counts_text(counted))


def _counts_text(counted: Counts) -> str:
    def listed(phases: Iterable[Phase]) -> str:
        return ", ".join(f"{counted[phase]} {phase.value}" for phase in phases if counted[phase])

    if counted.newest is None:
        return listed(Phase)
    unfinished = listed(phase for phase in Phase if not phase.is_final)
    ended = listed(phase for phase in Phase if phase.is_final)
    return "; ".join(part for part in (unfinished, f"of the newest {counted.newest}: {ended}") if part)


def _position(after: str | None) -> Position | None:
    if after is None:
        return None
    try:
        return Position.parse(after)
    except ValueError as fault:
        raise typer.BadParameter(
            f"--after {after!r} is not a position in the list; copy it from the last line of the previous page"
        ) from fault


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
