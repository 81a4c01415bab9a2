"""`orchestrator dead-letters edit`: a copy with other content; what came stays as it came."""

import asyncio
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from os import environ
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.dead_letters.display import (
    By,
    Number,
    text_of,
    there,
    verdict_document,
    who_says,
    with_database,
    with_letters,
    would,
)
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, read_stdin
from orchestrator.cli.terminal.output import Output
from orchestrator.client.dead_letters import ReplayForecast
from orchestrator.protocol.envelope import NESTING_LIMIT
from orchestrator.protocol.json_text import rewrite
from orchestrator.settings import Settings
from orchestrator.store.dead_letters.resolution import LetterView, letter_of


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
    settings, output, who = Settings(), Output(as_json), who_says(by)
    letter = there(asyncio.run(with_database(settings, lambda database: letter_of(database, number))), number)
    if not letter.is_open:
        raise NotPossible("event.settled", f"dead letter {number} is settled: {letter.settled_as}")
    if file is not None:
        raw = read_stdin() if file == "-" else _file(file)
    else:
        raw = changed(letter, changes) if changes else _in_editor(letter)
    if raw == letter.raw:
        raise NotPossible("event.unchanged", "nothing was changed, so nothing was kept")
    verdict = asyncio.run(with_letters(settings, lambda letters: letters.edit(letter, raw, by=who), sends=False))
    if verdict is None:
        raise NotPossible("event.settled", f"dead letter {number} was settled meanwhile, or is being replayed")
    copy = verdict.letter.id
    output.state("done", f"kept as dead letter {copy}; {number} is as it came")
    output.say(f"A replay of it {would(verdict)}")
    output.say(
        f"Next: {command('dead-letters', 'edit' if verdict.fate is ReplayForecast.REFUSED else 'replay', str(copy))}"
    )
    if as_json:
        output.document({"edited": number, **verdict_document(verdict)})
    return Exit.COMPLETED


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as fault:
        raise typer.BadParameter(f"{path} cannot be read: {fault.strerror}") from fault


def changed(letter: LetterView, changes: Sequence[str]) -> bytes:
    """The message with some values set; every other number keeps its digits."""

    def change(message: Any, loads: Callable[[str], Any]) -> Any:
        if not isinstance(message, dict):
            raise ValueError
        for one in changes:
            path, equals, value = one.partition("=")
            if not equals or not path:
                raise typer.BadParameter(f"--set takes PATH=VALUE, as in data.amount=500, not {one}")
            _set(message, path.split("."), value, one, loads)
        return message  # pyright: ignore[reportUnknownVariableType]

    try:
        written = rewrite(letter.raw.decode("utf-8"), change)
    except (ValueError, RecursionError) as fault:
        raise NotPossible(
            "event.not_json", f"dead letter {letter.id} is no JSON object: edit it whole, with --file"
        ) from fault
    return written.encode("utf-8", "surrogatepass")


def _set(message: Any, path: Sequence[str], value: str, change: str, loads: Callable[[str], Any]) -> None:
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
        place[last] = loads(value)
    except ValueError:
        place[last] = value


def _in_editor(letter: LetterView) -> bytes:
    editor = environ.get("VISUAL") or environ.get("EDITOR")
    if not editor or not sys.stdin.isatty():
        raise typer.TyperException("There is no $EDITOR to open here. Give --set PATH=VALUE, or --file PATH.")
    text, form = text_of(letter.raw)
    with tempfile.TemporaryDirectory(prefix="dead-letter-") as folder:
        file = Path(folder) / f"dead-letter-{letter.id}.json"
        file.write_bytes(text.encode() if form == "JSON" else letter.raw)
        before = file.read_bytes()
        if subprocess.run([*shlex.split(editor), str(file)], check=False).returncode:  # noqa: S603
            raise NotPossible("event.unchanged", "the editor ended with an error, so nothing was kept")
        after = file.read_bytes()
    return letter.raw if after == before else after
