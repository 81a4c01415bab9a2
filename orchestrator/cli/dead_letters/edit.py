"""`orchestrator dead-letters edit`: saves an edited copy; the original message is left unchanged."""

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
    Number,
    describe_forecast,
    forecast_document,
    format_message,
    require_letter,
    with_database,
    with_letters,
)
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, read_stdin
from orchestrator.cli.terminal.output import Output
from orchestrator.cli.terminal.person import By, decided_by
from orchestrator.client.dead_letters import ReplayEffect
from orchestrator.protocol.messages.envelope import NESTING_LIMIT
from orchestrator.protocol.messages.json_text import rewrite
from orchestrator.settings import Settings
from orchestrator.store.dead_letters.resolution import StoredDeadLetter, read_dead_letter


def edit(
    number: Number,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="PATH", help="Read the whole new message from a file, or from stdin if -."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Set one value in the JSON, as in data.amount=500; repeatable."
        ),
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Save an edited copy of a dead letter under a new number. The original stays unchanged and is settled.

    Without --file and --set, the message is opened in $EDITOR. A value of --set is read as JSON or, if it is not JSON,
    as text. An empty value removes the field.

    \b
    Examples:
      orchestrator dead-letters edit 7
      orchestrator dead-letters edit 7 --set data.amount.amount_minor=500 --set type=MONEY_TRANSFER_REQUESTED
      orchestrator dead-letters edit 7 --file corrected.json --json
    """
    if file is not None and changes:
        raise typer.BadParameter("Give either --file or --set, not both")
    settings, output = Settings(), Output(as_json)
    stored = asyncio.run(with_database(settings, lambda database: read_dead_letter(database, number)))
    letter = require_letter(stored, number)
    if not letter.is_open:
        raise NotPossible(
            "event.settled", f"Dead letter {number} cannot be edited, because it is settled: {letter.settled_as}"
        )
    if file is not None:
        raw = read_stdin() if file == "-" else _read_file(file)
    else:
        raw = apply_changes(letter, changes) if changes else _edit_in_editor(letter)
    if raw == letter.raw:
        raise NotPossible("event.unchanged", "No copy was saved, because nothing was changed")
    forecast = asyncio.run(
        with_letters(settings, lambda letters: letters.edit(letter, raw, by=decided_by(by)), sends=False)
    )
    if forecast is None:
        raise NotPossible(
            "event.settled",
            f"No copy was saved, because dead letter {number} has been settled meanwhile or is being replayed",
        )
    copy = forecast.letter.id
    output.state("done", f"the edited copy is dead letter {copy}; the message of {number} is unchanged")
    output.line(f"Dead letter {copy} {describe_forecast(forecast)}")
    next_step = "edit" if forecast.effect is ReplayEffect.REFUSED else "replay"
    output.line(f"Next: {command('dead-letters', next_step, str(copy))}")
    if as_json:
        output.document({"edited": number, **forecast_document(forecast)})
    return Exit.COMPLETED


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as fault:
        raise typer.BadParameter(f"The file {path} cannot be read: {fault.strerror}") from fault


def apply_changes(letter: StoredDeadLetter, changes: Sequence[str]) -> bytes:
    """Return the message with some values set. All other numbers keep their digits."""

    def change(message: Any, loads: Callable[[str], Any]) -> Any:
        if not isinstance(message, dict):
            raise ValueError
        for assignment in changes:
            path, equals, value = assignment.partition("=")
            if not equals or not path:
                raise typer.BadParameter(f"--set takes PATH=VALUE, as in data.amount=500, not {assignment}")
            _set(message, path.split("."), value, assignment, loads)
        return message  # pyright: ignore[reportUnknownVariableType]

    try:
        written = rewrite(letter.raw.decode("utf-8"), change)
    except (ValueError, RecursionError) as fault:
        raise NotPossible(
            "event.not_json",
            f"--set cannot change dead letter {letter.id}, because its message is not a JSON object. Give the whole "
            "message with --file",
        ) from fault
    return written.encode("utf-8", "surrogatepass")


def _set(message: Any, path: Sequence[str], value: str, assignment: str, loads: Callable[[str], Any]) -> None:
    *parents, last = path
    if len(path) > NESTING_LIMIT:
        raise typer.BadParameter(f"--set {assignment}: an event is nested at most {NESTING_LIMIT} levels deep")
    parent = message
    for name in parents:
        if isinstance(parent, list) and name.isdecimal() and int(name) < len(parent):  # pyright: ignore[reportUnknownArgumentType]
            parent = parent[int(name)]  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(parent, dict) and name in parent:
            parent = parent[name]  # pyright: ignore[reportUnknownVariableType]
        else:
            raise typer.BadParameter(
                f"--set {assignment}: the message does not contain this path, because {name} is missing"
            )
    if not isinstance(parent, dict):
        raise typer.BadParameter(
            f"--set {assignment}: {'.'.join(parents)} is not an object, so it cannot have the field {last}"
        )
    if not value:
        parent.pop(last, None)  # pyright: ignore[reportUnknownMemberType]
        return
    try:
        parent[last] = loads(value)
    except ValueError:
        parent[last] = value


def _edit_in_editor(letter: StoredDeadLetter) -> bytes:
    editor = environ.get("VISUAL") or environ.get("EDITOR")
    if not editor or not sys.stdin.isatty():
        raise typer.TyperException(
            "No editor can be opened here, because $EDITOR is not set or stdin is not a terminal. Use --set PATH=VALUE "
            "or --file PATH instead."
        )
    text, format_name = format_message(letter.raw)
    with tempfile.TemporaryDirectory(prefix="dead-letter-") as folder:
        file = Path(folder) / f"dead-letter-{letter.id}.json"
        file.write_bytes(text.encode() if format_name == "JSON" else letter.raw)
        before = file.read_bytes()
        if subprocess.run([*shlex.split(editor), str(file)], check=False).returncode:  # noqa: S603
            raise NotPossible("event.unchanged", "No copy was saved, because the editor ended with an error")
        after = file.read_bytes()
    return letter.raw if after == before else after
