"""What the dead-letter commands share: options, access to the database, and the display of dead letters.

A message's content is shown only on request, because it may be personal.
"""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from orchestrator.cli.terminal.exit_codes import NotPossible
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import moment_json
from orchestrator.client import EventBus, connect_temporal, ui_link
from orchestrator.client.dead_letters import DeadLetters, ReplayEffect, ReplayForecast
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.messages.json_text import rewrite
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import StoredDeadLetter

R = TypeVar("R")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
TYPE = re.compile(rb'"type"\s*:\s*"([^"\\]{1,200})"')
ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,128})"')

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The dead letter's number, as `list` shows it.")]
Numbers = Annotated[
    list[int] | None, typer.Argument(metavar="[NUMBER...]", help="The dead letters' numbers, as `list` shows them.")
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="Only messages that arrived this way: bus, start, update, outbox, edited, or a signal's name.",
    ),
]
Code = Annotated[str | None, typer.Option("--code", help="Only dead letters with this code, e.g. event.unknown_type.")]
Type = Annotated[str | None, typer.Option("--type", help="Only messages with this event type.")]
Name = Annotated[
    str | None,
    typer.Option("--orchestrator", metavar="NAME", help="Only messages sent to executions of this orchestrator."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="Only newer dead letters: for example 30min, 2h, 7d, or a time in RFC 3339."
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The maximum number of dead letters.")]


def parse_since(text: str | None) -> datetime | None:
    """Return the time that `--since` means, which is either a duration before now or a time in RFC 3339.

    Raises:
        typer.BadParameter: the text is neither.
    """
    if text is None:
        return None
    duration = _DURATION.fullmatch(text)
    if duration is not None:
        return datetime.now(UTC) - timedelta(seconds=float(duration[1]) * _SECONDS[duration[2]])
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"--since must be a duration such as 30min, 2h or 7d, or a time in RFC 3339, not {text!r}"
        ) from None
    return time if time.tzinfo else time.astimezone()


async def with_database(settings: Settings, work: Callable[[Database], Awaitable[R]]) -> R:
    """Run a function on the home database, then close the database's connections."""
    database = Database(settings.resolved_database_url)
    try:
        return await work(database)
    finally:
        await database.close()


async def with_letters(settings: Settings, work: Callable[[DeadLetters], Awaitable[R]], *, sends: bool) -> R:
    """Run a function on the dead letters. Connect to Temporal only if `sends`."""
    catalog = Catalog.discover(settings.packages)
    database = Database(settings.resolved_database_url)
    try:
        client: Any = await connect_temporal(settings) if sends else None
        bus = EventBus(client, catalog, task_queue=settings.task_queue, source="orchestrator/cli")
        return await work(DeadLetters(database, bus))
    finally:
        await database.close()


def require_letter(letter: StoredDeadLetter | None, number: int) -> StoredDeadLetter:
    """Return the dead letter after checking that it exists.

    Raises:
        NotPossible: it does not exist.
    """
    if letter is None:
        raise NotPossible(
            "event.no_letter",
            f"There is no dead letter {number}. To list all: {command('dead-letters', 'list', '--all')}",
        )
    return letter


def is_replayable(forecast: ReplayForecast) -> bool:
    """Return whether a replay publishes the message."""
    return forecast.effect in (ReplayEffect.STARTS, ReplayEffect.REPEATS)


def describe_forecast(forecast: ReplayForecast) -> str:
    """Return what a replay would do, as a predicate for a sentence about the dead letter."""
    match forecast.effect:
        case ReplayEffect.SETTLED | ReplayEffect.UNDER_WAY:
            return f"is not replayed: {forecast.sentence}"
        case ReplayEffect.REFUSED:
            return f"would be {forecast.sentence}"
        case ReplayEffect.STARTS | ReplayEffect.REPEATS:
            return f"can be replayed: {forecast.sentence}"


def state_of(letter: StoredDeadLetter) -> str:
    """Return the dead letter's state in one word."""
    if letter.is_open:
        return "open" if letter.settled_as is None else "replaying"
    return (letter.settled_as or "settled").partition(" ")[0]


def attribute_in(pattern: re.Pattern[bytes], letter: StoredDeadLetter) -> str:
    """Return an attribute of a message that may not be valid JSON, or an empty string if the message lacks it."""
    match = pattern.search(letter.raw)
    return "" if match is None else match[1].decode("utf-8", "replace")


def link_of(settings: Settings, namespace: str, letter: StoredDeadLetter) -> str:
    """Return the Web UI's page for the execution that the message was sent to."""
    return ui_link(settings, namespace, letter.workflow_id, letter.run_id)


def parse_json(raw: bytes) -> Any:
    """Return the message's JSON value, or None if the message is not JSON."""
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def format_message(raw: bytes) -> tuple[str, str]:
    """Return a message as text for a terminal, and a name for its format."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex(" ", 4), "not text, shown in hexadecimal"
    try:
        return rewrite(text, lambda message, _: message, indent=2), "JSON"
    except (ValueError, RecursionError):
        escaped = "".join(
            character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
        )
        return escaped, "text, not JSON"


def document_of(letter: StoredDeadLetter) -> dict[str, Any]:
    """Return a dead letter as a JSON object, without its message, for programs."""
    return {
        "number": letter.id,
        "code": letter.code,
        "reason": letter.reason,
        "source": letter.source,
        "event_type": attribute_in(TYPE, letter) or None,
        "event_id": attribute_in(ID, letter) or None,
        "workflow_id": letter.workflow_id,
        "run_id": letter.run_id,
        "position": letter.position,
        "size": letter.size,
        "is_whole": letter.is_whole,
        "edited_from": letter.edited_from,
        "created_at": moment_json(letter.created_at),
        "settled_at": moment_json(letter.settled_at),
        "settled_as": letter.settled_as,
    }


def forecast_document(forecast: ReplayForecast) -> dict[str, Any]:
    """Return what a replay does, or would do, as a JSON object, for programs."""
    return {
        "number": forecast.letter.id,
        "effect": forecast.effect.value,
        "event_type": forecast.event_type or None,
        "event_id": forecast.event_id or None,
        "starts": list(forecast.starts),
        "repeats": {name: phase.value for name, phase in (forecast.phases or {}).items()},
        "code": forecast.code or None,
        "reason": forecast.reason or None,
    }
