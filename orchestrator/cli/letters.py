"""`orchestrator dead-letters`: messages that were no events of ours, seen, mended, and sent again.

What a message says is shown only to who asks for it: it may be personal.
"""

import asyncio
import base64
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from os import environ
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from orchestrator.catalog import Catalog
from orchestrator.cli.consent import ask
from orchestrator.cli.faults import Exit, NotPossible
from orchestrator.cli.invocation import command
from orchestrator.cli.options import AsJson, Yes
from orchestrator.cli.output import Output, ago, moment_json
from orchestrator.cli.person import this_person
from orchestrator.client import EventBus, connect_temporal, ui_link
from orchestrator.client.dead_letters import DeadLetters, Fate, Verdict
from orchestrator.envelope import NESTING_LIMIT
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.kept_letters import LetterView, Search, Settled, State, count_letters, find_letters, letter_of
from orchestrator.store.reading import namespace_of

R = TypeVar("R")

_SHOWN = 4_000
"""Characters of a message that `show` prints by itself."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_TYPE = re.compile(rb'"type"\s*:\s*"([^"\\]{1,200})"')
_ID = re.compile(rb'"id"\s*:\s*"([^"\\]{1,128})"')


def _moment(given: str | None) -> datetime | None:
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

dead_letters = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None)


@dead_letters.callback(invoke_without_command=True)
def _dead_letters(context: typer.Context) -> int:
    """Messages that were no events of ours, from whichever door: see them, mend them, send them again, or drop them.

    \b
    Examples:
      orchestrator dead-letters list                              what is open, the newest first
      orchestrator dead-letters show 7                            one message, with its reason and where it came from
      orchestrator dead-letters edit 7 --set data.amount=500      an edited copy; the original stays as it came
      orchestrator dead-letters replay 8                          says what it would do, asks, publishes it
      orchestrator dead-letters drop 9 --reason "a test of ours"  nobody will replay it
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
        return Exit.MISUSE
    return Exit.COMPLETED


@dead_letters.command("list")
def list_(
    door: Door = None,
    code: Code = None,
    event_type: Type = None,
    orchestrator: Name = None,
    since: Since = None,
    settled: Annotated[bool, typer.Option("--settled", help="Those that somebody has settled.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Open and settled ones.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> int:
    """List dead letters, the newest first: those that are open, unless more is asked for.

    \b
    Examples:
      orchestrator dead-letters list
      orchestrator dead-letters list --code event.unknown_type --since 2h
      orchestrator dead-letters list --all --door update --json
    """
    state = State.ALL if everything else State.SETTLED if settled else State.OPEN
    search = Search(
        state=state,
        door=door,
        code=code,
        event_type=event_type,
        orchestrator=orchestrator,
        since=_moment(since),
        limit=limit,
    )
    output = Output(as_json)

    async def read(database: Database) -> tuple[Sequence[LetterView], int]:
        return await find_letters(database, search), await count_letters(database, search)

    found, count = asyncio.run(_with_database(Settings(), read))
    if as_json:
        output.document({"dead_letters": [_document(one) for one in found], "count": count})
    elif not found:
        output.say("No such dead letters.")
    else:
        rows = [
            (str(one.id), one.code, one.door, _named(_TYPE, one), _named(_ID, one), ago(one.created_at), _state(one))
            for one in found
        ]
        output.table(("number", "code", "door", "type", "event id", "age", "state"), rows)
        output.say()
        output.say(f"{len(found)} of {count}. One of them: {command('dead-letters', 'show', str(found[0].id))}")
    return Exit.COMPLETED


@dead_letters.command("show")
def show(
    number: Number,
    full: Annotated[bool, typer.Option("--full", help="All of a long message.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The message alone, byte for byte, for a file or a pipe.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show a dead letter: what came, why it is none of ours, from where, and what became of it.

    The message may be personal. JSON is shown indented, other text escaped, anything else in hexadecimal.

    \b
    Examples:
      orchestrator dead-letters show 7
      orchestrator dead-letters show 7 --raw > message.json
      orchestrator dead-letters show 7 --json
    """
    settings, output = Settings(), Output(as_json)

    async def read(database: Database) -> tuple[LetterView | None, str]:
        return await letter_of(database, number), await namespace_of(database) or "default"

    found, namespace = asyncio.run(_with_database(settings, read))
    letter = _there(found, number)
    if raw:
        sys.stdout.buffer.write(letter.raw)
        sys.stdout.buffer.flush()
        return Exit.COMPLETED
    link = None if letter.edited_from or "/" not in letter.workflow_id else _link(settings, namespace, letter)
    if as_json:
        document = _document(letter) | {"link": link, "raw_base64": base64.b64encode(letter.raw).decode()}
        parsed = _parsed(letter.raw)
        output.document(document if parsed is None else document | {"message": parsed})
        return Exit.COMPLETED
    output.state(_state(letter), f"{letter.code}: {letter.reason}")
    output.say(f"  came {ago(letter.created_at)} ago ({moment_json(letter.created_at)}) by {letter.door}")
    if letter.edited_from is not None:
        output.say(f"  an edited copy of dead letter {letter.edited_from}, which is as it came")
    else:
        output.say(f"  from {letter.workflow_id}, run {letter.run_id}, message {letter.position}")
    if link:
        output.say(f"  {link}")
    if letter.settled_at is not None:
        output.say(f"  settled {ago(letter.settled_at)} ago: {letter.settled_as}")
    have = "" if letter.is_whole else f", {letter.kept:,} of them are here"
    text, form = _text(letter.raw)
    output.say(f"  {letter.size:,} bytes{have}, {form}:")
    cut = text if full else text[:_SHOWN]
    output.say(cut)
    if len(cut) < len(text):
        output.say(f"... all of it: {command('dead-letters', 'show', str(number), '--full')}")
    if letter.is_open:
        output.say(f"What a replay would do: {command('dead-letters', 'replay', str(number))}")
    return Exit.COMPLETED


@dead_letters.command("edit")
def edit(
    number: Number,
    file: Annotated[
        str | None, typer.Option("--file", metavar="PATH", help="The whole message from a file, or - for stdin.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="One value of its JSON, as in data.amount=500; repeatable."),
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Keep an edited copy of a dead letter, under a number of its own; the original stays as it came, settled.

    Without --file and --set it opens $EDITOR. A value of --set is JSON, or else a text; nothing after `=` takes the
    field away.

    \b
    Examples:
      orchestrator dead-letters edit 7
      orchestrator dead-letters edit 7 --set data.amount.amount_minor=500 --set type=MONEY_TRANSFER_REQUESTED
      orchestrator dead-letters edit 7 --file mended.json --json
    """
    if file is not None and changes:
        raise typer.BadParameter("give --file or --set, not both")
    settings, output, who = Settings(), Output(as_json), _who(by)
    letter = _there(asyncio.run(_with_database(settings, lambda database: letter_of(database, number))), number)
    if not letter.is_open:
        raise NotPossible("event.settled", f"dead letter {number} is settled: {letter.settled_as}")
    if file is not None:
        raw = sys.stdin.buffer.read() if file == "-" else _file(file)
    else:
        raw = _changed(letter, changes) if changes else _in_editor(letter)
    if raw == letter.raw:
        raise NotPossible("event.unchanged", "nothing was changed, so nothing was kept")
    verdict = asyncio.run(_with_letters(settings, lambda letters: letters.edit(letter, raw, by=who), sends=False))
    if verdict is None:
        raise NotPossible("event.settled", f"dead letter {number} was settled meanwhile, or is being replayed")
    copy = verdict.letter.id
    output.state("done", f"kept as dead letter {copy}; {number} is as it came")
    output.say(f"A replay of it {_would(verdict)}")
    output.say(f"Next: {command('dead-letters', 'edit' if verdict.fate is Fate.REFUSED else 'replay', str(copy))}")
    if as_json:
        output.document({"edited": number, **_verdict_document(verdict)})
    return Exit.COMPLETED


@dead_letters.command("replay")
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
    settings, output, who = Settings(), Output(as_json), _who(by)
    search = _filter(numbers, door, code, event_type, orchestrator, since, limit)
    foreseen = asyncio.run(_with_letters(settings, lambda letters: _foresee(letters, numbers, search), sends=False))
    if not foreseen:
        output.say("No such dead letters.")
    for verdict in foreseen:
        output.say(f"Dead letter {verdict.letter.id} {_would(verdict)}")
    wanted = [one.letter.id for one in foreseen if one.fate in (Fate.STARTS, Fate.REPEATS)]
    done: list[Verdict] = []
    if wanted:
        ask(f"Replay {len(wanted)} of them?" if len(foreseen) > 1 else "Replay it?", output, is_agreed=yes)
        done = asyncio.run(_with_letters(settings, lambda letters: _replay(letters, wanted, who, output), sends=True))
    refused = [one for one in (*done, *foreseen) if one.fate is Fate.REFUSED]
    for one in {one.letter.id: one for one in refused}.values():
        output.say(f"To mend it: {command('dead-letters', 'edit', str(one.letter.id))}")
    if as_json:
        ended = {one.letter.id: one for one in (*foreseen, *done)}
        replayed = {one.letter.id for one in done if one.fate in (Fate.STARTS, Fate.REPEATS)}
        told = [_verdict_document(one) | {"replayed": number in replayed} for number, one in ended.items()]
        output.document({"dead_letters": told})
    return Exit.MISUSE if refused else Exit.COMPLETED


@dead_letters.command("drop")
def drop(
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...", help="As `list` shows them.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept and shown.")],
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Settle dead letters that nobody will replay. They stay in the table, with who said so and why.

    \b
    Examples:
      orchestrator dead-letters drop 9 --reason "a test of ours"
      orchestrator dead-letters drop 9 10 --reason "sent again by hand, ticket 4711" --as olena --yes --json
    """
    if not any(one.isalnum() for one in reason):
        raise typer.BadParameter("--reason is kept for whoever asks later: write some words")
    settings, output, who = Settings(), Output(as_json), _who(by)

    async def read(database: Database) -> list[LetterView]:
        return [_there(await letter_of(database, number), number) for number in numbers]

    for letter in asyncio.run(_with_database(settings, read)):
        how = f"settled already: {letter.settled_as}" if not letter.is_open else f"{letter.code}: {letter.reason}"
        output.say(f"Dead letter {letter.id}, {how}")
    ask("Drop it?" if len(numbers) == 1 else f"Drop these {len(numbers)}?", output, is_agreed=yes)

    async def settle(letters: DeadLetters) -> dict[int, Settled]:
        return {number: await letters.drop(number, by=who, reason=reason.strip()) for number in numbers}

    became = asyncio.run(_with_letters(settings, settle, sends=False))
    for number, settled in became.items():
        match settled:
            case Settled.DONE:
                output.state("done", f"dead letter {number} is dropped")
            case Settled.BEFORE:
                output.say(f"Dead letter {number} had been settled before; nothing was changed.")
            case Settled.UNDER_WAY:
                output.say(f"Dead letter {number} is being replayed just now, and was left alone.")
    if as_json:
        told = [{"number": number, "became": settled.value} for number, settled in became.items()]
        output.document({"dead_letters": told})
    return Exit.COMPLETED if set(became.values()) == {Settled.DONE} else Exit.MISUSE


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
        door=door, code=code, event_type=event_type, orchestrator=orchestrator, since=_moment(since), limit=limit
    )


async def _foresee(letters: DeadLetters, numbers: list[int] | None, search: Search) -> list[Verdict]:
    wanted = numbers or [one.id for one in reversed(await letters.find(search))]
    foreseen: list[Verdict] = []
    for number in dict.fromkeys(wanted):
        verdict = await letters.foresee(number)
        _there(None if verdict is None else verdict.letter, number)
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
        word = "accepted" if verdict.fate in (Fate.STARTS, Fate.REPEATS) else verdict.fate.value
        output.state(word, f"dead letter {number}: {verdict.sentence}")
        if verdict.fate in (Fate.STARTS, Fate.REPEATS):
            output.say(f"  See what becomes of it: {command('status', verdict.event_id)}")
    return done


async def _with_database(settings: Settings, work: Callable[[Database], Awaitable[R]]) -> R:
    database = Database(settings.resolved_database_url)
    try:
        return await work(database)
    finally:
        await database.close()


async def _with_letters(settings: Settings, work: Callable[[DeadLetters], Awaitable[R]], *, sends: bool) -> R:
    """With `sends`, on a connection to Temporal; else what is asked needs none."""
    catalog = Catalog.discover(settings.packages)
    database = Database(settings.resolved_database_url)
    try:
        client: Any = await connect_temporal(settings) if sends else None
        bus = EventBus(client, catalog, task_queue=settings.task_queue, source="orchestrator/cli")
        return await work(DeadLetters(database, bus))
    finally:
        await database.close()


def _there(letter: LetterView | None, number: int) -> LetterView:
    if letter is None:
        there = command("dead-letters", "list", "--all")
        raise NotPossible("event.no_letter", f"there is no dead letter {number}; see {there}")
    return letter


def _who(by: str | None) -> str:
    return (by or this_person()).strip() or "somebody"


def _would(verdict: Verdict) -> str:
    if verdict.fate in (Fate.SETTLED, Fate.UNDER_WAY):
        return f"is left alone: {verdict.sentence}"
    return f"would be {verdict.sentence}" if verdict.fate is Fate.REFUSED else f"as {verdict.sentence}"


def _state(letter: LetterView) -> str:
    if letter.is_open:
        return "open" if letter.settled_as is None else "replaying"
    return (letter.settled_as or "settled").partition(" ")[0]


def _named(pattern: re.Pattern[bytes], letter: LetterView) -> str:
    """What the message calls itself, as far as that can be told from its text."""
    found = pattern.search(letter.raw)
    return "" if found is None else found[1].decode("utf-8", "replace")


def _link(settings: Settings, namespace: str, letter: LetterView) -> str:
    return ui_link(settings, namespace, letter.workflow_id, letter.run_id)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _text(raw: bytes) -> tuple[str, str]:
    """How a message is shown, and what it is."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.hex(" ", 4), "no text, in hexadecimal"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False), "JSON"
    except (ValueError, RecursionError):
        escaped = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
        return escaped, "text, not JSON"


def _document(letter: LetterView) -> dict[str, Any]:
    return {
        "number": letter.id,
        "code": letter.code,
        "reason": letter.reason,
        "door": letter.door,
        "event_type": _named(_TYPE, letter) or None,
        "event_id": _named(_ID, letter) or None,
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


def _verdict_document(verdict: Verdict) -> dict[str, Any]:
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


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as fault:
        raise typer.BadParameter(f"{path} cannot be read: {fault.strerror}") from fault


def _changed(letter: LetterView, changes: Sequence[str]) -> bytes:
    message = _parsed(letter.raw)
    if not isinstance(message, dict):
        raise NotPossible("event.not_json", f"dead letter {letter.id} is no JSON object: edit it whole, with --file")
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"--set takes PATH=VALUE, as in data.amount=500, not {change}")
        _set(message, path.split("."), value, change)
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _set(message: Any, path: Sequence[str], value: str, change: str) -> None:
    *way, last = path
    if len(path) > NESTING_LIMIT:
        raise typer.BadParameter(f"--set {change}: so deep nothing may be nested")
    place = message
    for name in way:
        if isinstance(place, list) and name.isdecimal() and int(name) < len(place):  # pyright: ignore[reportUnknownArgumentType]
            place = place[int(name)]  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(place, dict) and name in place:
            place = place[name]  # pyright: ignore[reportUnknownVariableType]
        else:
            raise typer.BadParameter(f"--set {change}: the message has no {name} there")
    if not isinstance(place, dict):
        raise typer.BadParameter(f"--set {change}: {'.'.join(way)} is no object, so it has no {last}")
    if not value:
        place.pop(last, None)  # pyright: ignore[reportUnknownMemberType]
        return
    try:
        place[last] = json.loads(value)
    except ValueError:
        place[last] = value


def _in_editor(letter: LetterView) -> bytes:
    editor = environ.get("VISUAL") or environ.get("EDITOR")
    if not editor or not sys.stdin.isatty():
        raise typer.TyperException("There is no $EDITOR to open here. Give --set PATH=VALUE, or --file PATH.")
    text, form = _text(letter.raw)
    with tempfile.TemporaryDirectory(prefix="dead-letter-") as folder:
        file = Path(folder) / f"dead-letter-{letter.id}.json"
        file.write_bytes(text.encode() if form == "JSON" else letter.raw)
        before = file.read_bytes()
        if subprocess.run([*shlex.split(editor), str(file)], check=False).returncode:  # noqa: S603
            raise NotPossible("event.unchanged", "the editor ended with an error, so nothing was kept")
        after = file.read_bytes()
    return letter.raw if after == before else after
