"""The README is true: its files are dropped into a copy of the project and its commands are typed there."""

import ast
import json
import re
from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.cli.faults import Exit
from orchestrator.settings import Settings
from tests.docs.markdown import ROOT, Document, code_in
from tests.docs.project import WORKER, Project, check_commands, missing_from

README = Document("README.md")

NOT_TYPED_HERE = {
    "make demo": "plays for half a minute; a Makefile target, with tests of its own",
    "make test": "would run this very test; a Makefile target that .ci/run runs",
    "make up": "never ends by itself; a Makefile target, and its server and worker run under these commands",
    WORKER: "never ends by itself; the worker of these commands is started by it",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy with the README's files dropped in."""
    return Project.copied(tmp_path_factory.mktemp("readme") / "project", README)


@pytest.fixture(scope="module")
async def running(project: Project) -> AsyncGenerator[Project]:
    """The copy with a server and a worker."""
    async with project.running():
        yield project


async def test_every_command_works_and_says_what_is_shown(running: Project) -> None:
    commands = [command for command in README.commands if command.line not in NOT_TYPED_HERE]
    assert len(commands) >= 8

    assert await check_commands(running, commands) == []


async def test_what_is_to_be_pasted_into_the_web_ui_runs(running: Project) -> None:
    [pasted] = [block for block in README.of("json") if '"specversion"' in block.text]
    event_id = json.loads(pasted.text)["id"]
    (running.folder / "pasted.json").write_text(pasted.text)
    # Its account; where the test above ran in another process, nobody has opened it. A repeat is harmless.
    [opening] = [command.line for command in README.commands if "publish ACCOUNT_CREATED" in command.line]
    opened = await running.type(opening)

    started = await running.type(
        f".venv/bin/temporal workflow execute --type GoalOpening --task-queue orchestrator "
        f"--workflow-id GoalOpening/event/{event_id} --input-file pasted.json"
    )
    status = await running.type(f".venv/bin/orchestrator status {event_id}")

    assert opened.exit_code == 0, opened.output
    assert started.exit_code == 0, started.output
    assert status.output.startswith("completed GoalOpening"), status.output


async def test_a_new_orchestrator_needs_no_other_file_and_is_found_by_its_place(running: Project) -> None:
    events = await running.type(".venv/bin/orchestrator events --json")

    started = {one["type"]: one["listeners"] for one in json.loads(events.output)["events"]}
    assert started["GOAL_OPENING_REQUESTED"] == ["GoalOpening"]
    text = README.files["workflows/goal_opening.py"]
    assert "temporal" not in text.lower()
    assert "register" not in text.lower()


async def test_what_is_to_be_copied_passes_what_the_project_asks_of_itself(project: Project) -> None:
    files = " ".join(README.files)
    style = await project.type(f".venv/bin/ruff check {files} && .venv/bin/ruff format --check {files}")
    imports = await project.type(".venv/bin/lint-imports --no-cache")
    types = await project.type(f".venv/bin/mypy {files}")

    assert style.exit_code == 0, style.output
    assert imports.exit_code == 0, imports.output
    assert types.exit_code == 0, types.output


async def test_a_command_that_says_something_else_is_noticed(project: Project) -> None:
    [first, *_] = [command for command in README.commands if " events " in command.line]

    assert missing_from("GOAL_OPENING_REQUESTED  (version 2)\n", first) == first.shown[0]
    assert missing_from("\n".join(reversed(first.shown)), first) is not None
    assert (await check_commands(project, [type(first)(".venv/bin/orchestrator events NO_SUCH", ())])) != []


@pytest.mark.parametrize("line", [line for line in NOT_TYPED_HERE if line.startswith("make ")])
async def test_a_command_that_is_not_typed_here_is_a_target_of_the_makefile(line: str) -> None:
    target = line.removeprefix("make ")
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(rf"^{target}:", makefile, re.M)
    assert line in {command.line for command in README.commands}


def test_ci_runs_the_tests_and_the_checks() -> None:
    ci = (ROOT / ".ci" / "run").read_text()

    assert "make test" in ci
    assert "make check" in ci


def test_the_lines_of_the_new_orchestrator_are_counted_right() -> None:
    told = {code_in(row[0])[0]: int(row[1]) for row in README.table("file")}

    counted = {path: len(text.splitlines()) for path, text in README.files.items() if path in told}
    assert told == counted
    assert told["workflows/goal_opening.py"] <= 25


def test_settings_are_told_as_they_are() -> None:
    told = {code_in(row[0])[0]: (row[1], row[2]) for row in README.table("environment")}

    assert told == _settings()


def test_exit_codes_are_told_as_they_are() -> None:
    told = {int(row[0]) for row in README.table("code")}

    assert told == {int(one) for one in Exit}


def test_every_python_block_is_a_file_to_copy() -> None:
    blocks = README.of("python")

    assert blocks
    assert [block.line for block in blocks if block.path is None] == []


def test_the_pictures_are_mermaid_and_their_arrows_lead_to_nodes_that_are_there() -> None:
    pictures = README.of("mermaid")

    assert len(pictures) == 2
    flow, states = pictures[0].text, pictures[1].text
    assert flow.startswith("flowchart ")
    assert flow.count("subgraph ") == len(re.findall(r"^\s*end$", flow, re.M))
    for opening, closing in ("[]", "()", "{}"):
        assert flow.count(opening) == flow.count(closing)
    assert flow.count('"') % 2 == 0
    for phase in ("forward", "undoing", "completed", "failed", "cancelled"):
        assert phase in states


def _settings() -> dict[str, tuple[str, str]]:
    told = _docstrings_of(ROOT / "orchestrator" / "settings.py", "Settings")
    return {
        f"ORCHESTRATOR_{name.upper()}": (_shown(field.default), told[name])
        for name, field in Settings.model_fields.items()
    }


def _shown(default: object) -> str:
    text = json.dumps(list(default)) if isinstance(default, tuple) else str(default)  # pyright: ignore[reportUnknownArgumentType]
    text = text.lower() if isinstance(default, bool) else text
    return f"`{text}`" if text else "empty"


def _docstrings_of(file: Path, name: str) -> dict[str, str]:
    [body] = [
        one.body for one in ast.parse(file.read_text()).body if isinstance(one, ast.ClassDef) and one.name == name
    ]
    found: dict[str, str] = {}
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=field_name)), ast.Expr(value=ast.Constant(value=str(said))):
                found[field_name] = " ".join(said.split())
            case _:
                pass
    return found
