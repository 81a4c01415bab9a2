"""The reference pages list every setting, command and exit code of the code."""

import ast
import json
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from typer.main import get_command

from orchestrator.cli.app import app
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.settings import Settings
from tests.docs.markdown import ROOT, Document, code_in

SETTINGS = Document("docs/reference/settings.md")
COMMANDS = Document("docs/reference/command-line.md")


def test_every_setting_is_listed_with_its_default_and_docstring() -> None:
    listed = {code_in(row[0])[0]: (row[1], row[2]) for row in SETTINGS.table("environment")}

    assert listed == _settings()


def test_every_exit_code_is_listed() -> None:
    listed = {int(row[0]) for row in COMMANDS.table("code")}

    assert listed == {int(code) for code in Exit}


def test_every_command_is_listed_with_every_option() -> None:
    rows = [row for table in COMMANDS.tables("command") for row in table]
    listed = {_command_name(code_in(row[0])[0]): set(code_in(row[2])) for row in rows}

    assert listed == {name: _options(command) - {"--json"} for name, command in _commands(get_command(app))}


def test_the_commands_without_json_output_are_those_that_the_page_names() -> None:
    without_json = [name for name, command in _commands(get_command(app)) if "--json" not in _options(command)]

    *others, last = [f"`{name}`" for name in without_json]
    assert f"every command except {', '.join(others)} and {last} accepts `--json`" in COMMANDS.text


def _command_name(typed: str) -> str:
    """Return the command without its arguments, which are in capitals or brackets, and without options."""
    return " ".join(takewhile(lambda word: word.replace("-", "").islower(), typed.split()))


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command below a group, by the words that run it."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield " ".join(path), command
        return
    for name, subcommand in subcommands.items():
        yield from _commands(subcommand, (*path, name))


def _options(command: Any) -> set[str]:
    """Return the long options of a command. One that is on by default appears in the form that turns it off."""
    return {
        (parameter.secondary_opts if parameter.default is True and parameter.secondary_opts else parameter.opts)[0]
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden
    }


def _settings() -> dict[str, tuple[str, str]]:
    docstrings = _field_docstrings(ROOT / "orchestrator" / "settings.py", "Settings")
    return {
        f"ORCHESTRATOR_{name.upper()}": (_format_default(field.default), docstrings[name])
        for name, field in Settings.model_fields.items()
    }


def _format_default(default: object) -> str:
    text = json.dumps(list(default)) if isinstance(default, tuple) else str(default)  # pyright: ignore[reportUnknownArgumentType]
    text = text.lower() if isinstance(default, bool) else text
    return f"`{text}`" if text else "empty"


def _field_docstrings(file: Path, class_name: str) -> dict[str, str]:
    [body] = [
        node.body
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    docstrings: dict[str, str] = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docstrings[name] = " ".join(text.split())
            case _:
                pass
    return docstrings
