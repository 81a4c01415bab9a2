"""`make release-check`: builds the package, and uses it as a stranger would, on each Python that is here.

For each Python: an empty virtual environment outside of the checkout, the wheel, `orchestrator new`, the project's own
checks and tests, and one saga under `orchestrator dev`. Exit code 0 only if all of it works.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from tests.embedded.processes import processes_with
from tests.release.artifacts import ROOT, Artifacts, build, faults_of

_MINORS = (11, 12, 13, 14)
_PATIENCE = 900
_READY = "Ctrl-C stops everything."


class CheckFailed(Exception):
    """A step failed. The message has its output."""


@dataclass
class Stranger:
    """Somebody who has a Python, the wheel, and an empty folder.

    Args:
        python: the interpreter.
        folder: empty, outside of the checkout.
    """

    python: str
    folder: Path
    began: float = field(default_factory=monotonic)

    @property
    def project(self) -> Path:
        """The project that is created."""
        return self.folder / "shop"

    @property
    def mark(self) -> str:
        """The variable by which every process of this run is found."""
        return f"RELEASE_CHECK={self.folder}"

    def run(self, *command: str, folder: Path | None = None) -> str:
        """Run a command in the project, and return its output.

        Raises:
            CheckFailed: its exit code is not 0.
        """
        ran = subprocess.run(
            command,
            cwd=folder or self.project,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if ran.returncode != 0:
            raise CheckFailed(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout}")
        return ran.stdout

    def environment(self) -> dict[str, str]:
        """Return the environment of somebody who has activated the virtual environment."""
        foreign = ("ORCHESTRATOR_", "TEMPORAL_", "PYTHON", "VIRTUAL_ENV", "PYENV_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        name, _, value = self.mark.partition("=")
        return {
            **kept,
            name: value,
            "PATH": f"{self.folder / 'venv' / 'bin'}{os.pathsep}{kept.get('PATH', '')}",
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    def say(self, text: str) -> None:
        """Print a step with the time since the beginning."""
        print(f"{monotonic() - self.began:6.1f} s  {text}", flush=True)

    def check(self, artifacts: Artifacts) -> None:
        """Do it all.

        Raises:
            CheckFailed: something does not work.
        """
        self.say(self.run(self.python, "--version", folder=self.folder).strip())
        self.run(self.python, "-m", "venv", "venv", folder=self.folder)
        self.run("pip", "install", "-q", str(artifacts.wheel), folder=self.folder)
        self.say("The wheel is installed")
        self.run("orchestrator", "new", "shop", folder=self.folder)
        self.run("pip", "install", "-q", "--find-links", str(artifacts.wheel.parent), "-e", ".[dev]")
        self.say("A project is created, with what its development needs")
        self._run_a_saga()
        for command in (["orchestrator", "check"], ["ruff", "check", "."], ["mypy"], ["pytest", "-q"]):
            last_line = self.run(*command).strip().splitlines()[-1]
            self.say(f"{' '.join(command)}: {last_line}")
        self.run("orchestrator", "contracts", "--accept")
        self.run("orchestrator", "check")

    def _run_a_saga(self) -> None:
        log = self.folder / "dev.log"
        with log.open("wb") as output:
            running = subprocess.Popen(
                [self.folder / "venv" / "bin" / "orchestrator", "dev"],
                cwd=self.project,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_for(_READY, log, running)
            example = self.run("orchestrator", "publish", "ORDER_PLACED", "--example")
            published = self.run("orchestrator", "publish", "ORDER_PLACED", example, "--follow")
            if "completed ORDER_COMPLETED" not in published:
                raise CheckFailed(f"The saga did not complete:\n{published}")
            self._wait_for("completed Order", log, running)
            self.say("The first saga has completed under `orchestrator dev`")
            running.send_signal(signal.SIGINT)
            if (code := running.wait(60)) != 0:
                raise CheckFailed(f"orchestrator dev ended with {code}:\n{log.read_text()}")
            if left := processes_with(self.mark):
                raise CheckFailed(f"orchestrator dev left processes behind: {left}")
        finally:
            running.kill()
            running.wait()

    def _wait_for(self, text: str, log: Path, running: "subprocess.Popen[bytes]") -> None:
        until = monotonic() + _PATIENCE
        while text not in log.read_text(errors="replace"):
            try:
                running.wait(0.1)
            except subprocess.TimeoutExpired:
                if monotonic() < until:
                    continue
            raise CheckFailed(f"{text!r} never came:\n{log.read_text(errors='replace')}")


def interpreters() -> list[str]:
    """Return a program for each version of Python that the package supports and that is here."""
    found: list[str] = []
    pyenv = shutil.which("pyenv")
    versions = Path(_output(pyenv, "root")) / "versions" if pyenv else None
    for minor in _MINORS:
        candidates = [f"python3.{minor}"]
        if versions is not None:  # its command runs only the versions that are selected
            candidates += [str(version / "bin" / "python") for version in versions.glob(f"3.{minor}.*")]
        found += [program for program in candidates if _output(program, "--version").startswith("Python")][:1]
    return found


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def main(arguments: Sequence[str]) -> int:
    """Build, check, and use the package; return the exit code."""
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument("pythons", nargs="*", help="interpreters; by default each supported one that is here")
    parser.add_argument("--keep", action="store_true", help="keep the folder with everything")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="release-"))
    try:
        artifacts = build(folder)
        if faults := faults_of(artifacts):
            raise CheckFailed("\n".join(faults))
        print(f"{artifacts.wheel.name} and {artifacts.sdist.name} contain what they must, and nothing else.")
        for number, python in enumerate(options.pythons or interpreters()):
            stranger = Stranger(python, folder / f"stranger-{number}")
            stranger.folder.mkdir()
            stranger.check(artifacts)
    except (CheckFailed, subprocess.SubprocessError) as fault:
        print(fault, file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("The package can be released.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
