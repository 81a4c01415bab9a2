"""The reference pages list every setting, command and exit code of the code."""

import ast
import json
from itertools import pairwise
from pathlib import Path

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


def test_every_command_is_listed() -> None:
    listed = {code_in(row[0])[0].split()[1] for row in COMMANDS.table("command")}

    # `diagram` and `catalog` share a row.
    assert listed | {"diagram"} == set(getattr(get_command(app), "commands"))  # noqa: B009


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
