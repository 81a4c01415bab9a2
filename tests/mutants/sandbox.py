"""A copy of the project to which mutants are applied. The tests run on its engine; the working tree is unchanged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tests.mutants.mutants import Mutant
from tests.mutants.witness import REPORT

ROOT = Path(__file__).parent.parent.parent
MEANINGFUL = {"AssertionError", "Failed", "OrchestratorError"}
"""Errors that show a broken promise: those of a test (pytest's `Failed` includes a timeout) and those of the engine. A
mutant that only produces invalid code or invalid SQL proves nothing."""


@dataclass(frozen=True, slots=True)
class Phase:
    """How one phase of a test ended."""

    test: str
    name: str
    """`setup`, `call` or `teardown`."""
    outcome: str
    raised: tuple[str, ...]
    """The names of the error's class and its base classes."""
    message: str

    def is_of(self, tests: Iterable[str]) -> bool:
        """Tell whether it belongs to one of these tests, with any parameters if the name has none."""
        return any(self.test == test or self.test.startswith(f"{test}[") for test in tests)


@dataclass(frozen=True, slots=True)
class Run:
    """The result of running tests in the copy."""

    exit_code: int | None
    """None if the run did not end in time and was stopped."""
    phases: tuple[Phase, ...]
    seconds: float
    output: str

    def passed(self, test: str) -> bool:
        """Tell whether a test ran and passed, with each of its parameters that ran."""
        calls = [phase for phase in self.phases if phase.name == "call" and phase.is_of([test])]
        return bool(calls) and all(phase.outcome == "passed" for phase in calls)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mutant was caught, and why."""

    caught_by: str | None
    """The test that failed, or None if the mutant survived."""
    why: str
    """The message of the failed test, or the reason why the mutant counts as a survivor."""


def judge(mutant: Mutant, run: Run) -> Verdict:
    """Decide whether one of the mutant's own tests failed in its call with a meaningful error."""
    if run.exit_code is None:
        return Verdict(None, "its tests did not end in time")
    failed = next((phase for phase in run.phases if phase.outcome == "failed"), None)
    if run.exit_code == 0:
        return Verdict(None, "its tests passed, or ran nothing")
    if run.exit_code != 1 or failed is None:
        return Verdict(None, f"pytest ended with {run.exit_code}, which is no failing test")
    if not failed.is_of(mutant.caught_by):
        return Verdict(None, f"{failed.test} failed, which is none of its tests")
    if failed.name != "call":
        return Verdict(None, f"{failed.test} failed in its {failed.name}: {failed.message}")
    if not MEANINGFUL.intersection(failed.raised):
        return Verdict(None, f"{failed.test} failed with an error that shows no broken promise: {failed.message}")
    return Verdict(failed.test, failed.message)


class Sandbox:
    """The copy of the project."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self._report = folder / "report.jsonl"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)

    @contextmanager
    def broken_by(self, mutant: Mutant) -> Generator[None]:
        """Apply a mutant to the copy, and undo that at the end.

        Raises:
            NoLongerFits: the text that the mutant replaces is not in the file exactly once.
        """
        whole = (self.root / mutant.file).read_text()
        mutant.apply(self.root)
        try:
            yield
        finally:
            (self.root / mutant.file).write_text(whole)

    def test(self, tests: Iterable[str], *, limit: float) -> Run:
        """Run tests until the first one fails.

        Args:
            tests: pytest's node ids.
            limit: seconds; a test that hangs fails a little earlier, so that its report is written.
        """
        self._report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.witness", "-p", "no:cacheprovider", "-q", "-x"]
        command += [f"--timeout={limit * 0.75:.0f}", "--tb=short", *tests]
        # No bytecode: a file that changes twice within a second and keeps its size would count as unchanged.
        changed = {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", REPORT: str(self._report)}
        began = monotonic()
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=os.environ | changed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        exit_code: int | None
        try:
            output, _ = process.communicate(timeout=limit)
            exit_code = process.returncode
        except subprocess.TimeoutExpired:
            output, exit_code = _end(process), None
        except BaseException:
            _end(process)
            raise
        return Run(exit_code, tuple(self._phases()), monotonic() - began, output)

    def _phases(self) -> Generator[Phase]:
        if not self._report.exists():
            return
        for line in self._report.read_text().splitlines():
            phase: dict[str, Any] = json.loads(line)
            yield Phase(phase["test"], phase["phase"], phase["outcome"], tuple(phase["raised"]), phase["message"])


def _end(process: "subprocess.Popen[str]") -> str:
    """Interrupt pytest so that it can end its servers, and kill whatever remains."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
