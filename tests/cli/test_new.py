"""`orchestrator new` creates a project that passes its own checks and tests, and refuses what it cannot create."""

import sys
from pathlib import Path

import pytest

from tests.cli.shell import Ran, Shell, ended

FEW_CELLS = "test_an_order or test_a_refused or (sqlite and (transient or cancelled))"
"""The unit tests, and a few faults of the conformance test."""


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell({"PYTHONDONTWRITEBYTECODE": "1"}, tmp_path)


async def run_tool(shell: Shell, *command: str) -> Ran:
    return await ended(await shell.start("-m", *command, program=(sys.executable,)))


@pytest.mark.parametrize(("name", "package"), [("my-shop", "my_shop"), ("Zoo", "zoo")])
async def test_a_created_project_passes_its_own_checks_and_tests(name: str, package: str, empty: Shell) -> None:
    created = await empty.run("new", name)
    project = Shell(empty.variables, empty.folder / name)

    checked = await project.run("check")
    style = await run_tool(project, "ruff", "check", "--no-cache", ".")
    form = await run_tool(project, "ruff", "format", "--no-cache", "--check", ".")
    tests = await run_tool(project, "pytest", "-q", "-p", "no:cacheprovider", "-k", FEW_CELLS)

    assert created.code == 0, created
    assert f"12 files were written to {name}." in created.out
    assert (project.folder / package / "order.py").is_file()
    assert checked.out.startswith("No fault found in 1 orchestrator, 2 operations, 3 events.")
    assert (style.code, form.code) == (0, 0), f"{style}{form}"
    assert tests.code == 0, tests
    assert " passed" in tests.out


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
async def test_a_created_project_has_strict_types_and_passes_each_fault_at_each_step(empty: Shell) -> None:
    await empty.run("new", "shop")
    project = Shell(empty.variables, empty.folder / "shop")

    types = await run_tool(project, "mypy")
    tests = await ended(
        await project.start("-m", "pytest", "-q", "-p", "no:cacheprovider", program=(sys.executable,)), seconds=500
    )

    assert types.code == 0, types
    assert tests.code == 0, tests


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1shop", "is not a name for a project"),
        ("my shop", "is not a name for a project"),
        ("../shop", "is not a name for a project"),
        ("a" * 51, "is not a name for a project"),
        ("class", "Python itself uses the name class"),
        ("JSON", "Python itself uses the name json"),
        ("worker", "Every project has a module worker"),
        ("pydantic", "A module pydantic is already installed here"),
    ],
)
async def test_a_name_that_no_project_can_have_is_refused_with_a_sentence(name: str, text: str, empty: Shell) -> None:
    ran = await empty.run("new", name)

    assert ran.code == 2, ran
    assert text in ran.err
    assert list(empty.folder.iterdir()) == []


async def test_a_folder_with_files_is_refused_and_an_empty_one_is_used(empty: Shell) -> None:
    (empty.folder / "full").mkdir()
    (empty.folder / "full" / "notes.txt").write_text("mine")
    (empty.folder / "file").write_text("mine")
    (empty.folder / "shop").mkdir()

    full, file, used = [await empty.run("new", name) for name in ("full", "file", "shop")]

    assert (full.code, file.code, used.code) == (2, 2, 0)
    assert "is not an empty folder. Nothing was changed" in full.err
    assert [entry.name for entry in (empty.folder / "full").iterdir()] == ["notes.txt"]
    assert (empty.folder / "file").read_text() == "mine"
