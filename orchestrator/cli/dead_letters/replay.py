"""`orchestrator dead-letters replay`: publishes stored messages, after showing what that would do."""

import asyncio
from collections.abc import Sequence

import typer

from orchestrator.cli.dead_letters.display import (
    Code,
    Limit,
    Name,
    Numbers,
    Since,
    Source,
    Type,
    describe_forecast,
    forecast_document,
    is_replayable,
    parse_since,
    require_letter,
    with_letters,
)
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, Yes
from orchestrator.cli.terminal.output import Output
from orchestrator.cli.terminal.person import By, decided_by
from orchestrator.client.dead_letters import DeadLetters, ReplayEffect, ReplayForecast
from orchestrator.settings import Settings
from orchestrator.store.dead_letters.resolution import Search


def replay(
    numbers: Numbers = None,
    source: Source = None,
    code: Code = None,
    event_type: Type = None,
    orchestrator: Name = None,
    since: Since = None,
    limit: Limit = 50,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Publish dead letters under their own event ids, after showing what that would do and asking for confirmation.

    Give either numbers or a filter. If a filter finds more than --limit dead letters, only the newest are replayed. Of
    those replayed, the oldest is first. A message that would be refused again is shown with the reason and stays open.
    Replaying twice has the same effect as replaying once.

    The exit code is 0 if everything was replayed, 2 if something was refused again.

    \b
    Examples:
      orchestrator dead-letters replay 7
      orchestrator dead-letters replay --code event.unknown_type --type GOAL_OPENING_REQUESTED --yes
      orchestrator dead-letters replay 7 8 --yes --json
    """
    settings, output, who = Settings(), Output(as_json), decided_by(by)
    search = _search(numbers, source, code, event_type, orchestrator, since, limit)
    forecasts = asyncio.run(with_letters(settings, lambda letters: _forecast(letters, numbers, search), sends=False))
    if not forecasts:
        output.line("No open dead letter matches.")
    for forecast in forecasts:
        output.line(f"Dead letter {forecast.letter.id} {describe_forecast(forecast)}")
    wanted = [forecast.letter.id for forecast in forecasts if is_replayable(forecast)]
    done: list[ReplayForecast] = []
    if wanted:
        ask(f"Replay {len(wanted)} of them?" if len(forecasts) > 1 else "Replay it?", output, is_agreed=yes)
        done = asyncio.run(with_letters(settings, lambda letters: _replay(letters, wanted, who, output), sends=True))
    refused = [forecast.letter.id for forecast in (*done, *forecasts) if forecast.effect is ReplayEffect.REFUSED]
    for number in dict.fromkeys(refused):
        output.line(f"To correct dead letter {number}: {command('dead-letters', 'edit', str(number))}")
    if as_json:
        last = {forecast.letter.id: forecast for forecast in (*forecasts, *done)}
        replayed = {forecast.letter.id for forecast in done if is_replayable(forecast)}
        documents = [
            forecast_document(forecast) | {"replayed": number in replayed} for number, forecast in last.items()
        ]
        output.document({"dead_letters": documents})
    return Exit.MISUSE if refused else Exit.COMPLETED


def _search(
    numbers: list[int] | None,
    source: str | None,
    code: str | None,
    event_type: str | None,
    orchestrator: str | None,
    since: str | None,
    limit: int,
) -> Search:
    is_filtered = any(option is not None for option in (source, code, event_type, orchestrator, since))
    if bool(numbers) == is_filtered:
        raise typer.BadParameter("Give either the numbers of dead letters, or a filter such as --code")
    return Search(
        source=source,
        code=code,
        event_type=event_type,
        orchestrator=orchestrator,
        since=parse_since(since),
        limit=limit,
    )


async def _forecast(letters: DeadLetters, numbers: list[int] | None, search: Search) -> list[ReplayForecast]:
    wanted = numbers or [letter.id for letter in reversed(await letters.find(search))]
    forecasts: list[ReplayForecast] = []
    for number in dict.fromkeys(wanted):
        forecast = await letters.forecast_replay(number)
        require_letter(None if forecast is None else forecast.letter, number)
        if forecast is not None:
            forecasts.append(forecast)
    return forecasts


async def _replay(letters: DeadLetters, numbers: Sequence[int], by: str, output: Output) -> list[ReplayForecast]:
    done: list[ReplayForecast] = []
    for number in numbers:
        forecast = await letters.replay(number, by=by)
        if forecast is None:
            continue
        done.append(forecast)
        output.state(
            "accepted" if is_replayable(forecast) else forecast.effect.value,
            f"dead letter {number}: {forecast.sentence}",
        )
        if is_replayable(forecast):
            output.line(f"  See its status: {command('status', forecast.event_id)}")
    return done
