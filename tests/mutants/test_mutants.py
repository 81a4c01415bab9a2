"""Every mutant fits the current code and names existing tests; `make mutants` runs them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant, NoLongerFits
from tests.mutants.sandbox import ROOT, Phase, Run, judge
from tests.mutants.under_chaos import fault_in

TEST = "tests/store/test_some.py::test_it"
MUTANT = Mutant(name="some", breaks="a promise", file="some.py", replaced={"1": "2"}, caught_by=(TEST,))
CAUGHT = Phase(f"{TEST}[sqlite]", "call", "failed", ("AssertionError", "Exception"), "assert 2 == 1")


def run(*phases: Phase, exit_code: int | None = 1) -> Run:
    """The result of a pytest run with these phases."""
    return Run(exit_code, phases, seconds=1.0, output="")


def test_each_mutant_has_its_own_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_current_code(mutant: Mutant) -> None:
    whole = (ROOT / mutant.file).read_text()

    broken = mutant.applied_to(whole)

    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(whole))


def test_the_tests_that_catch_mutants_exist() -> None:
    named = sorted({test for mutant in MUTANTS for test in mutant.caught_by})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *named]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("code", ["x = 0", "x = 1 + 1"])
def test_a_mutant_that_no_longer_fits_says_so_and_writes_nothing(tmp_path: Path, code: str) -> None:
    (tmp_path / MUTANT.file).write_text(code)

    with pytest.raises(NoLongerFits, match=r"no longer fits the code: some\.py"):
        MUTANT.apply(tmp_path)

    assert (tmp_path / MUTANT.file).read_text() == code


def test_the_tests_refuse_to_run_on_any_engine_but_the_copys(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.witness", f"--rootdir={tmp_path}", "--collect-only"]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not the copy's engine" in ran.stderr


def test_a_mutant_is_caught_by_its_own_test_that_fails_in_its_call() -> None:
    passed = Phase(f"{TEST}[sqlite]", "setup", "passed", (), "")

    verdict = judge(MUTANT, run(passed, CAUGHT))

    assert (verdict.caught_by, verdict.why) == (CAUGHT.test, "assert 2 == 1")


@pytest.mark.parametrize(
    ("reason", "result"),
    [
        ("its tests passed", run(Phase(TEST, "call", "passed", (), ""), exit_code=0)),
        ("its tests passed, or ran nothing", run(exit_code=0)),
        ("did not end in time", run(CAUGHT, exit_code=None)),
        ("pytest ended with 2", run(exit_code=2)),
        ("pytest ended with 4", run(CAUGHT, exit_code=4)),
        ("none of its tests", run(Phase(f"{TEST}_too", "call", "failed", ("AssertionError",), ""))),
        ("failed in its setup", run(Phase(TEST, "setup", "failed", ("AssertionError",), ""))),
        ("no broken promise", run(Phase(TEST, "call", "failed", ("NameError", "Exception"), ""))),
        ("no broken promise", run(Phase(TEST, "call", "failed", ("OperationalError", "DBAPIError"), ""))),
    ],
)
def test_in_any_other_case_the_mutant_survived_and_the_verdict_says_why(reason: str, result: Run) -> None:
    verdict = judge(MUTANT, result)

    assert verdict.caught_by is None
    assert reason in verdict.why


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("open 0, stuck 0\nlost 0, doubled 0, wedged 0\n", None),
        ("not often enough: late attempts barred: 1 of 5\nlost 0, doubled 0, wedged 0\n", None),
        ("wedged: e is forward\n", None),
        ("wedged: e is forward\nlost 0, doubled 0, wedged 1\n", "wedged: e is forward"),
        ("wrong: order of k\nlost 0, doubled 0, wedged 0\n", "wrong: order of k"),
    ],
)
def test_chaos_has_caught_a_mutant_if_its_audit_reports_a_fault(output: str, fault: str | None) -> None:
    assert fault_in(output) == fault
