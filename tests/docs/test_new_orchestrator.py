"""The second tutorial is true: its files are added to a copy of the project, tested, and run to each kind of end."""

from collections.abc import AsyncGenerator
from itertools import pairwise

import pytest

from tests.docs.markdown import Document
from tests.docs.project import Project, check_commands

TUTORIAL = Document("docs/tutorial/new-orchestrator.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with the tutorial's files."""
    return Project.copied(tmp_path_factory.mktemp("tutorial") / "project", TUTORIAL)


@pytest.fixture(scope="module")
async def running(project: Project) -> AsyncGenerator[Project]:
    """The copy with a server and a worker."""
    async with project.running():
        yield project


async def test_every_command_works_and_prints_what_is_shown(running: Project) -> None:
    assert len(TUTORIAL.commands) >= 8

    assert await check_commands(running, TUTORIAL.commands) == []


async def test_its_commands_show_each_kind_of_end() -> None:
    shown = "\n".join(line for command in TUTORIAL.commands for line in command.shown)

    for text in ("completed ACCOUNT_SHARING_COMPLETED", "failed    sharing.too_many_guests", "undone    step 2"):
        assert text in shown


async def test_a_definition_fault_is_reported_as_shown(project: Project) -> None:
    [shown] = [block.text for block in TUTORIAL.of("text") if "problem found" in block.text]
    file = project.folder / "activities" / "sharing.py"
    original = file.read_text()
    signature = "async def uninvite(tx: Transaction, user_id: UserId, account_id: AccountId, {}: UserId)"
    wrong = original.replace(signature.format("guest_id"), signature.format("guest"))
    assert wrong != original
    try:
        file.write_text(wrong)
        checked = await project.type(".venv/bin/orchestrator events")
    finally:
        file.write_text(original)

    assert checked.exit_code == 2
    assert checked.output.strip() == shown.strip()


async def test_the_files_to_copy_pass_the_projects_own_checks(project: Project) -> None:
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
