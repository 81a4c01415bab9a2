"""`orchestrator dead-letters replay`: what was kept is published, after a person has seen what that would do."""

import asyncio
from collections.abc import Sequence

import typer

from orchestrator.cli.dead_letters.display import (
    By,
    Code,
    Door,
    Limit,
    Name,
    Numbers,
    Since,
    Type,
    moment,
    there,
    verdict_document,
    who_says,
    with_letters,
    would,
)
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, Yes
from orchestrator.cli.terminal.output import Output
from orchestrator.client.dead_letters import DeadLetters, ReplayForecast, Verdict
from orchestrator.settings import Settings
from orchestrator.store.dead_letters.resolution import Search


def replay(
    numbers: Numbers = None,
    door: Door = None,
    code: Code = None,
    event_type: Type = None,
    orchestrator: Name = None,
    since: Since = None,
    limit: Limit = 50,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Publish dead letters again, under their own event ids: shows what that would do, and asks.

    Give numbers, or a filter; of what a filter finds at most --limit are taken, the oldest of the newest first. What
    would be refused again is told with the reason, and stays open. Replaying twice does what doing it once does.

    The exit code is 0 if everything was replayed, 2 if something was refused again.

    \b
    Examples:
      orchestrator dead-letters replay 7
      orchestrator dead-letters replay --code event.unknown_type --type GOAL_OPENING_REQUESTED --yes
      orchestrator dead-letters replay 7 8 --yes --json
    """
    settings, output, who = Settings(), Output(as_json), who_says(by)
    search = _filter(numbers, door, code, event_type, orchestrator, since, limit)
    foreseen = asyncio.run(with_letters(settings, lambda letters: _foresee(letters, numbers, search), sends=False))
    if not foreseen:
        output.say("No such dead letters.")
    for verdict in foreseen:
        output.say(f"Dead letter {verdict.letter.id} {would(verdict)}")
    wanted = [one.letter.id for one in foreseen if one.fate in (ReplayForecast.STARTS, ReplayForecast.REPEATS)]
    done: list[Verdict] = []
    if wanted:
        ask(f"Replay {len(wanted)} of them?" if len(foreseen) > 1 else "Replay it?", output, is_agreed=yes)
        done = asyncio.run(with_letters(settings, lambda letters: _replay(letters, wanted, who, output), sends=True))
    refused = [one for one in (*done, *foreseen) if one.fate is ReplayForecast.REFUSED]
    for one in {one.letter.id: one for one in refused}.values():
        output.say(f"To mend it: {command('dead-letters', 'edit', str(one.letter.id))}")
    if as_json:
        ended = {one.letter.id: one for one in (*foreseen, *done)}
        replayed = {one.letter.id for one in done if one.fate in (ReplayForecast.STARTS, ReplayForecast.REPEATS)}
        told = [verdict_document(one) | {"replayed": number in replayed} for number, one in ended.items()]
        output.document({"dead_letters": told})
    return Exit.MISUSE if refused else Exit.COMPLETED


def _filter(
    numbers: list[int] | None,
    door: str | None,
    code: str | None,
    event_type: str | None,
    orchestrator: str | None,
    since: str | None,
    limit: int,
) -> Search:
    is_filtered = any(one is not None for one in (door, code, event_type, orchestrator, since))
    if bool(numbers) == is_filtered:
        raise typer.BadParameter("give numbers, or a filter such as --code")
    return Search(
        door=door, code=code, event_type=event_type, orchestrator=orchestrator, since=moment(since), limit=limit
    )


async def _foresee(letters: DeadLetters, numbers: list[int] | None, search: Search) -> list[Verdict]:
    wanted = numbers or [one.id for one in reversed(await letters.find(search))]
    foreseen: list[Verdict] = []
    for number in dict.fromkeys(wanted):
        verdict = await letters.foresee(number)
        there(None if verdict is None else verdict.letter, number)
        if verdict is not None:
            foreseen.append(verdict)
    return foreseen


async def _replay(letters: DeadLetters, numbers: Sequence[int], by: str, output: Output) -> list[Verdict]:
    done: list[Verdict] = []
    for number in numbers:
        verdict = await letters.replay(number, by=by)
        if verdict is None:
            continue
        done.append(verdict)
        word = "accepted" if verdict.fate in (ReplayForecast.STARTS, ReplayForecast.REPEATS) else verdict.fate.value
        output.state(word, f"dead letter {number}: {verdict.sentence}")
        if verdict.fate in (ReplayForecast.STARTS, ReplayForecast.REPEATS):
            output.say(f"  See what becomes of it: {command('status', verdict.event_id)}")
    return done
