"""The README is short, its commands exist, and CI runs the commands that it names."""

import re
from collections.abc import AsyncGenerator

import pytest

from tests.docs.markdown import ROOT, Document
from tests.docs.project import Project, check_commands

README = Document("README.md")
WORKER = "ORCHESTRATOR_PACKAGES=shop .venv/bin/python shop.py"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Project]:
    """A copy of the project with the example's worker running."""
    project = Project.copied(tmp_path_factory.mktemp("readme") / "project", README)
    async with project.running(WORKER):
        yield project


async def test_its_example_prints_what_it_shows(running: Project) -> None:
    commands = [command for command in README.commands if " publish " in command.line]
    assert WORKER in {command.line for command in README.commands}
    assert len(commands) == 2

    assert await check_commands(running, commands) == []


def test_it_has_at_most_150_lines() -> None:
    assert len(README.text.splitlines()) <= 150


def test_it_starts_with_the_two_main_commands() -> None:
    assert [command.line for command in README.commands][:2] == ["make demo", "make test"]


@pytest.mark.parametrize("line", [command.line for command in README.commands if command.line.startswith("make ")])
def test_its_make_commands_are_targets_of_the_makefile(line: str) -> None:
    target = line.removeprefix("make ")

    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", ["make test", "make check", "make docs"])
def test_ci_runs_the_commands_of_the_readme(line: str) -> None:
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
