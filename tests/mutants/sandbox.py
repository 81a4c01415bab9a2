"""A copy of the project to break: the tests run there on the copy's own engine, and the working tree stays as it is."""

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
from tests.mutants.witness import STATEMENT

ROOT = Path(__file__).parent.parent.parent
TELLING = {"AssertionError", "Failed", "OrchestratorError"}
"""What tells of a broken promise: a test's own errors (pytest's `Failed` is also a test that took too long), and the
engine's. A mutant that only makes invalid code or invalid SQL proves nothing."""


@dataclass(frozen=True, slots=True)
class Phase:
    """How a phase of a test ended."""

    test: str
    name: str
    """`setup`, `call` or `teardown`."""
    outcome: str
    raised: tuple[str, ...]
    """Name of the error's class and of those above it."""
    told: str

    def is_of(self, tests: Iterable[str]) -> bool:
        """Whether it is one of these tests, whatever its parameters if they name none."""
        return any(self.test == test or self.test.startswith(f"{test}[") for test in tests)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of running tests in the copy."""

    exit_code: int | None
    """None: it did not end in time and was ended."""
    phases: tuple[Phase, ...]
    seconds: float
    output: str

    def passed(self, test: str) -> bool:
        """Whether a test ran and passed, with each of its parameters that ran."""
        calls = [phase for phase in self.phases if phase.name == "call" and phase.is_of([test])]
        return bool(calls) and all(phase.outcome == "passed" for phase in calls)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mutant was caught."""

    caught_by: str | None
    """The test that failed; None: it survived."""
    why: str
    """What the test said, or why nothing counts as having caught it."""


def judge(mutant: Mutant, run: Run) -> Verdict:
    """A mutant is caught by one of its own tests, in its call, with something that tells of a broken promise."""
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
        return Verdict(None, f"{failed.test} failed in its {failed.name}: {failed.told}")
    if not TELLING.intersection(failed.raised):
        return Verdict(None, f"{failed.test} met an error that tells of no broken promise: {failed.told}")
    return Verdict(failed.test, failed.told)


class Sandbox:
    """The copy."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self._statement = folder / "statement.jsonl"
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
        """The copy with a mutant in it; put right at the end.

        Raises:
            NoLongerFits: the mutant's text is not there once.
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
            limit: seconds; a test that hangs fails before that, so that it tells of itself.
        """
        self._statement.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.witness", "-p", "no:cacheprovider", "-q", "-x"]
        command += [f"--timeout={limit * 0.75:.0f}", "--tb=short", *tests]
        # No bytecode: a file that is broken and put right within a second, at the same size, would pass for unchanged.
        changed = {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1", STATEMENT: str(self._statement)}
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
        if not self._statement.exists():
            return
        for line in self._statement.read_text().splitlines():
            seen: dict[str, Any] = json.loads(line)
            yield Phase(seen["test"], seen["phase"], seen["outcome"], tuple(seen["raised"]), seen["told"])


def _end(process: "subprocess.Popen[str]") -> str:
    """Let pytest end its servers; kill what is left of it."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
