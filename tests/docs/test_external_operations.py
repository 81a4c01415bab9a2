"""docs/external-operations.md is true: its files are added to a copy of the project, checked and run."""

import pytest

from orchestrator.external import DEFAULT_TIME_LIMIT
from orchestrator.operation import DEFAULT_DEADLINE
from tests.docs.markdown import Document
from tests.docs.project import Project, check_commands

GUIDE = Document("docs/external-operations.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with the guide's files."""
    return Project.copied(tmp_path_factory.mktemp("guide") / "project", GUIDE)


async def test_every_command_works_and_prints_what_is_shown(project: Project) -> None:
    assert len(GUIDE.commands) == 1

    assert await check_commands(project, GUIDE.commands) == []


async def test_its_declarations_pass_the_checks_before_a_worker_starts(project: Project) -> None:
    listed = await project.type(".venv/bin/orchestrator events")

    assert listed.exit_code == 0, listed.output


async def test_a_missing_verification_is_reported(project: Project) -> None:
    file = project.folder / "activities" / "payment.py"
    original = file.read_text()
    try:
        file.write_text(original.replace("@charge_card.verification\n", ""))
        checked = await project.type(".venv/bin/orchestrator events")
    finally:
        file.write_text(original)

    assert checked.exit_code == 2
    assert "charge_card has no verification" in checked.output


@pytest.mark.exhaustive
async def test_the_files_to_copy_pass_the_projects_own_checks(project: Project) -> None:
    files = " ".join(GUIDE.files)
    style = await project.type(f".venv/bin/ruff check {files} && .venv/bin/ruff format --check {files}")
    types = await project.type(f".venv/bin/mypy {files}")

    assert style.exit_code == 0, style.output
    assert types.exit_code == 0, types.output


def test_its_times_are_those_of_the_engine() -> None:
    assert GUIDE.text.count("| `time_limit` | 10 s |") == 1
    assert GUIDE.text.count("| `deadline` | 5 min |") == 1
    assert (DEFAULT_TIME_LIMIT.total_seconds(), DEFAULT_DEADLINE.total_seconds()) == (10, 300)


def test_every_python_block_is_a_file_to_copy() -> None:
    assert [block.line for block in GUIDE.of("python") if block.path is None] == []
