"""A process that ends before it was ready is followed up only if another may fare better."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROCESS = """
import os, pathlib, signal, sys, time
pipe, number, _ = (int(part) for part in os.environ["ORCHESTRATOR_SUPERVISED"].split(","))
starts = pathlib.Path(sys.argv[1], f"starts-{number}")
nth = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (nth + 1))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
lives = sys.argv[1 + number].split(",")
life = lives[min(nth, len(lives) - 1)]
if life.startswith("ready"):
    os.write(pipe, b"R")
    life = life.removeprefix("ready")
    while not life:
        os.write(pipe, b".")
        time.sleep(0.05)
sys.exit(int(life))
"""
"""A worker process that lives as it is told: `2` ends with that code, `ready` stays, `ready1` is ready and ends."""
SUPERVISOR = """
import sys
from orchestrator.worker.process.supervisor import Supervisor
sys.exit(Supervisor([sys.executable, *sys.argv[2:]], int(sys.argv[1]), drain=5).run())
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a supervisor of processes that live so, and return how often each was started."""
    script = tmp_path / "process.py"
    script.write_text(PROCESS)

    def run(*lives: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(len(lives)), str(script), str(tmp_path), *lives],
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    return run


def starts(folder: Path, number: int) -> int:
    """How often a process was started."""
    return len((folder / f"starts-{number}").read_text())


@pytest.mark.parametrize("code", [1, 2, 3, 70])
def test_a_fault_of_the_first_process_is_the_supervisors_and_told_once(start: Start, tmp_path: Path, code: int) -> None:
    supervisor = start(str(code), "ready")

    _, err = supervisor.communicate(timeout=20)

    assert supervisor.returncode == code
    assert err == ""
    assert starts(tmp_path, 1) == 1


def test_a_process_with_a_lasting_fault_is_not_started_again_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    supervisor = start("ready", "2")
    assert supervisor.stderr is not None

    told = supervisor.stderr.readline()
    supervisor.send_signal(signal.SIGTERM)
    _, err = supervisor.communicate(timeout=20)

    assert "ended (exit code 2) before it was ready. It is not replaced" in told
    assert err == ""
    assert supervisor.returncode == 0
    assert starts(tmp_path, 2) == 1


def test_the_supervisor_ends_when_no_process_is_left_that_may_start(start: Start, tmp_path: Path) -> None:
    supervisor = start("ready1,2", "ready1,2")

    _, err = supervisor.communicate(timeout=20)

    assert supervisor.returncode == 2
    assert err.count("It is not replaced") == 2
    assert (starts(tmp_path, 1), starts(tmp_path, 2)) == (2, 2)


def test_what_may_pass_is_waited_for_once_a_process_was_ready(start: Start, tmp_path: Path) -> None:
    supervisor = start("ready1,3,3,ready")
    assert supervisor.stderr is not None

    told = [supervisor.stderr.readline() for _ in range(3)]
    while starts(tmp_path, 1) < 4:
        assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=20)

    assert ["exit code 1" in told[0], "exit code 3" in told[1], "exit code 3" in told[2]] == [True] * 3
    assert supervisor.returncode == 0
