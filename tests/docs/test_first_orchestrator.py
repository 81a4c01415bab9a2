"""The first tutorial is true: its files are added to a copy of the project, and its commands run there."""

import json
from collections.abc import AsyncGenerator

import pytest

from tests.docs.markdown import Document, code_in
from tests.docs.project import WORKER, Project, check_commands, missing_from

TUTORIAL = Document("docs/tutorial/first-orchestrator.md")

NOT_RUN_HERE = {
    "make up": "does not end by itself; its server and its worker are running during these commands",
    WORKER: "does not end by itself; it starts the worker that these commands use",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with the tutorial's files."""
    return Project.copied(tmp_path_factory.mktemp("first") / "project", TUTORIAL)


@pytest.fixture(scope="module")
async def running(project: Project) -> AsyncGenerator[Project]:
    """The copy with a server and a worker."""
    async with project.running():
        yield project


async def test_every_command_works_and_prints_what_is_shown(running: Project) -> None:
    commands = [command for command in TUTORIAL.commands if command.line not in NOT_RUN_HERE]
    assert len(commands) >= 8

    assert await check_commands(running, commands) == []


async def test_the_envelope_to_paste_into_the_web_ui_runs(running: Project) -> None:
    [pasted] = [block for block in TUTORIAL.of("json") if '"specversion"' in block.text]
    event_id = json.loads(pasted.text)["id"]
    (running.folder / "pasted.json").write_text(pasted.text)
    # The account may not exist if the test above ran in another process. A repeat is harmless.
    [opening] = [command.line for command in TUTORIAL.commands if "publish ACCOUNT_CREATED" in command.line]
    opened = await running.type(opening)

    started = await running.type(
        f".venv/bin/temporal workflow execute --type GoalOpening --task-queue orchestrator "
        f"--workflow-id GoalOpening/event/{event_id} --input-file pasted.json"
    )
    status = await running.type(f".venv/bin/orchestrator status {event_id}")

    assert opened.exit_code == 0, opened.output
    assert started.exit_code == 0, started.output
    assert status.output.startswith("completed GoalOpening"), status.output


async def test_a_new_orchestrator_needs_no_registration_and_is_found_by_its_folder(running: Project) -> None:
    events = await running.type(".venv/bin/orchestrator events --json")

    started = {event["type"]: event["listeners"] for event in json.loads(events.output)["events"]}
    assert started["GOAL_OPENING_REQUESTED"] == ["GoalOpening"]
    text = TUTORIAL.files["workflows/goal_opening.py"]
    assert "temporal" not in text.lower()
    assert "register" not in text.lower()


@pytest.mark.exhaustive
async def test_the_files_to_copy_pass_the_projects_own_checks(project: Project) -> None:
    files = " ".join(TUTORIAL.files)
    style = await project.type(f".venv/bin/ruff check {files} && .venv/bin/ruff format --check {files}")
    imports = await project.type(".venv/bin/lint-imports --no-cache")
    types = await project.type(f".venv/bin/mypy {files}")

    assert style.exit_code == 0, style.output
    assert imports.exit_code == 0, imports.output
    assert types.exit_code == 0, types.output


async def test_a_command_with_other_output_is_noticed(project: Project) -> None:
    [first, *_] = [command for command in TUTORIAL.commands if " events " in command.line]

    assert missing_from("GOAL_OPENING_REQUESTED  (version 2)\n", first) == first.shown[0]
    assert missing_from("\n".join(reversed(first.shown)), first) is not None
    assert (await check_commands(project, [type(first)(".venv/bin/orchestrator events NO_SUCH", ())])) != []


def test_the_line_counts_of_the_new_orchestrator_are_right() -> None:
    listed = {code_in(row[0])[0]: int(row[1]) for row in TUTORIAL.table("file")}

    counted = {path: len(text.splitlines()) for path, text in TUTORIAL.files.items() if path in listed}
    assert listed == counted
    assert listed["workflows/goal_opening.py"] <= 25


def test_every_python_block_is_a_file_to_copy() -> None:
    blocks = TUTORIAL.of("python")

    assert blocks
    assert [block.line for block in blocks if block.path is None] == []
