"""The second tutorial is true: its files are added to a copy of the project, tested, and run to each end."""

from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest

from tests.docs.markdown import Document
from tests.docs.project import Project, check_commands

TUTORIAL = Document("docs/tutorial/new-orchestrator.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy with the tutorial's files dropped in."""
    return Project.copied(tmp_path_factory.mktemp("tutorial") / "project", TUTORIAL)


@pytest.fixture(scope="module")
async def running(project: Project) -> AsyncGenerator[Project]:
    """The copy with a server and a worker."""
    async with project.running():
        yield project


async def test_every_command_works_and_says_what_is_shown(running: Project) -> None:
    assert len(TUTORIAL.commands) >= 8

    assert await check_commands(running, TUTORIAL.commands) == []


async def test_its_commands_come_to_each_end() -> None:
    shown = "\n".join(line for command in TUTORIAL.commands for line in command.shown)

    for said in ("completed ACCOUNT_SHARING_COMPLETED", "failed    sharing.too_many_guests", "undone    step 2"):
        assert said in shown


async def test_a_fault_of_declaration_is_told_as_it_is_shown(project: Project) -> None:
    [shown] = [block.text for block in TUTORIAL.of("text") if "problem found" in block.text]
    file = project.folder / "activities" / "sharing.py"
    right = file.read_text()
    undoing = "async def uninvite(tx: Transaction, user_id: UserId, account_id: AccountId, {}: UserId)"
    wrong = right.replace(undoing.format("guest_id"), undoing.format("guest"))
    assert wrong != right
    try:
        file.write_text(wrong)
        told = await project.type(".venv/bin/orchestrator events")
    finally:
        file.write_text(right)

    assert told.exit_code == 2
    assert told.output.strip() == shown.strip()


async def test_what_is_to_be_copied_passes_what_the_project_asks_of_itself(project: Project) -> None:
    files = " ".join(TUTORIAL.files)
    style = await project.type(f".venv/bin/ruff check {files} && .venv/bin/ruff format --check {files}")
    types = await project.type(f".venv/bin/mypy {files}")

    assert style.exit_code == 0, style.output
    assert types.exit_code == 0, types.output


def test_every_python_block_is_a_file_to_copy() -> None:
    assert [block.line for block in TUTORIAL.of("python") if block.path is None] == []


def test_its_steps_are_numbered_in_order() -> None:
    numbers = [int(heading.partition(".")[0]) for heading in TUTORIAL.headings() if heading[0].isdigit()]

    assert len(numbers) >= 5
    assert all(after == before + 1 for before, after in pairwise(numbers))
