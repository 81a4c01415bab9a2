"""The README is short, its commands exist, and what CI runs is what it names."""

import re

import pytest

from tests.docs.markdown import ROOT, Document

README = Document("README.md")


def test_it_fits_on_two_screens() -> None:
    assert len(README.text.splitlines()) <= 150


def test_it_begins_with_the_two_commands() -> None:
    assert [command.line for command in README.commands][:2] == ["make demo", "make test"]


@pytest.mark.parametrize("line", [command.line for command in README.commands if command.line.startswith("make ")])
def test_its_make_commands_are_targets_of_the_makefile(line: str) -> None:
    target = line.removeprefix("make ")

    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", ["make test", "make check", "make docs"])
def test_ci_runs_what_the_readme_names(line: str) -> None:
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()
