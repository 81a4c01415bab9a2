"""A dead letter as a person and as a program see it, the options that its commands share, and how they reach it.

What a message says is shown only to who asks for it: it may be personal.
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
from orchestrator.cli.terminal.person import this_person
from orchestrator.client import EventBus, connect_temporal, ui_link
from orchestrator.client.dead_letters import DeadLetters, ReplayForecast, Verdict
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.json_text import rewrite
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import LetterView

R = TypeVar("R")

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
TYPE = re.compile(rb'"type"\s*:\s*"([^"\\]{1,200})"')
ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,128})"')

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `list` shows it.")]
Numbers = Annotated[list[int] | None, typer.Argument(metavar="[NUMBER...]", help="As `list` shows them.")]
Door = Annotated[str | None, typer.Option("--door", help="Only what came by it: bus, start, update, outbox, a signal.")]
Code = Annotated[str | None, typer.Option("--code", help="Only this code, e.g. event.unknown_type.")]
Type = Annotated[str | None, typer.Option("--type", help="Only messages that name this event type.")]
Name = Annotated[
    str | None, typer.Option("--orchestrator", metavar="NAME", help="Only what was sent to executions of it.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="WHEN", help="Only newer ones: 30min, 2h, 7d, or a moment in RFC 3339.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")]
By = Annotated[str | None, typer.Option("--as", metavar="WHO", help="Who says so; your user name if not given.")]


def moment(given: str | None) -> datetime | None:
    """A moment that was typed: how long ago, or RFC 3339.

    Raises:
        typer.BadParameter: it is neither.
    """
    if given is None:
        return None
    span = _SPAN.fullmatch(given)
    if span is not None:
        return datetime.now(UTC) - timedelta(seconds=float(span[1]) * _SECONDS[span[2]])
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter("--since takes a span, as in 30min, 2h or 7d, or a moment in RFC 3339") from None
    return moment if moment.tzinfo else moment.astimezone()


async def with_database(settings: Settings, work: Callable[[Database], Awaitable[R]]) -> R:
    """Do something with the home database."""
    database = Database(settings.resolved_database_url)
    try:
        return await work(database)
    finally:
        await database.close()


async def with_letters(settings: Settings, work: Callable[[DeadLetters], Awaitable[R]], *, sends: bool) -> R:
    """With `sends`, on a connection to Temporal; else what is asked needs none."""
    catalog = Catalog.discover(settings.packages)
    database = Database(settings.resolved_database_url)
    try:
        client: Any = await connect_temporal(settings) if sends else None
        bus = EventBus(client, catalog, task_queue=settings.task_queue, source="orchestrator/cli")
        return await work(DeadLetters(database, bus))
    finally:
        await database.close()


def there(letter: LetterView | None, number: int) -> LetterView:
    """A letter that has to be there.

    Raises:
        NotPossible: it is not.
    """
    if letter is None:
        there = command("dead-letters", "list", "--all")
        raise NotPossible("event.no_letter", f"there is no dead letter {number}; see {there}")
    return letter


def who_says(by: str | None) -> str:
    """Who a decision is kept under."""
    return (by or this_person()).strip() or "somebody"


def would(verdict: Verdict) -> str:
    """What a replay would do, behind the name of what is replayed."""
    if verdict.fate in (ReplayForecast.SETTLED, ReplayForecast.UNDER_WAY):
        return f"is left alone: {verdict.sentence}"
    return f"would be {verdict.sentence}" if verdict.fate is ReplayForecast.REFUSED else f"as {verdict.sentence}"


def state_of(letter: LetterView) -> str:
    """Where a letter stands, in a word."""
    if letter.is_open:
        return "open" if letter.settled_as is None else "replaying"
    return (letter.settled_as or "settled").partition(" ")[0]


def named(pattern: re.Pattern[bytes], letter: LetterView) -> str:
    """What the message calls itself, as far as that can be told from its text."""
    found = pattern.search(letter.raw)
    return "" if found is None else found[1].decode("utf-8", "replace")


def link_of(settings: Settings, namespace: str, letter: LetterView) -> str:
    """The page of the execution to which it was sent."""
    return ui_link(settings, namespace, letter.workflow_id, letter.run_id)


def parsed(raw: bytes) -> Any:
    """Its JSON; None if it is none."""
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def text_of(raw: bytes) -> tuple[str, str]:
    """How a message is shown, and what it is."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex(" ", 4), "no text, in hexadecimal"
    try:
        return rewrite(text, lambda message, _: message, indent=2), "JSON"
    except (ValueError, RecursionError):
        escaped = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
        return escaped, "text, not JSON"


def document_of(letter: LetterView) -> dict[str, Any]:
    """A letter for programs, without its message."""
    return {
        "number": letter.id,
        "code": letter.code,
        "reason": letter.reason,
        "door": letter.door,
        "event_type": named(TYPE, letter) or None,
        "event_id": named(ID, letter) or None,
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


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """What a replay does, or would do, for programs."""
    return {
        "number": verdict.letter.id,
        "fate": verdict.fate.value,
        "event_type": verdict.event_type or None,
        "event_id": verdict.event_id or None,
        "starts": list(verdict.starts),
        "repeats": {name: phase.value for name, phase in (verdict.stands or {}).items()},
        "code": verdict.code or None,
        "reason": verdict.reason or None,
    }
