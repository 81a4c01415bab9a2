"""A process that ends before it was ready is replaced only if another attempt may succeed."""

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
started = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (started + 1))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
lives = sys.argv[1 + number].split(",")
life = lives[min(started, len(lives) - 1)]
if life.startswith("ready"):
    os.write(pipe, b"R")
    life = life.removeprefix("ready")
    while not life:
        os.write(pipe, b".")
        time.sleep(0.05)
sys.exit(int(life))
"""
"""A worker process with a scripted life: `2` exits with code 2, `ready` keeps running, `ready1` is ready and exits."""
SUPERVISOR = """
import sys
from orchestrator.worker.process.supervisor import Supervisor
sys.exit(Supervisor([sys.executable, *sys.argv[2:]], int(sys.argv[1]), drain=5).run())
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A function that starts a supervisor whose processes have these lives."""
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
    """Number of times that a process was started."""
    return len((folder / f"starts-{number}").read_text())


@pytest.mark.parametrize("code", [1, 2, 3, 70])
def test_the_supervisor_exits_with_the_code_of_its_first_process(start: Start, tmp_path: Path, code: int) -> None:
    supervisor = start(str(code), "ready")

    _, err = supervisor.communicate(timeout=20)

    assert supervisor.returncode == code
    assert err == ""
    assert starts(tmp_path, 1) == 1


def test_a_process_with_a_permanent_fault_is_not_replaced_and_the_others_keep_running(
    start: Start, tmp_path: Path
) -> None:
    supervisor = start("ready", "2")
    assert supervisor.stderr is not None

    line = supervisor.stderr.readline()
    supervisor.send_signal(signal.SIGTERM)
    _, err = supervisor.communicate(timeout=20)

    assert "ended (exit code 2) before it was ready. It is not replaced" in line
    assert err == ""
    assert supervisor.returncode == 0
    assert starts(tmp_path, 2) == 1


def test_the_supervisor_exits_when_no_process_can_start(start: Start, tmp_path: Path) -> None:
    supervisor = start("ready1,2", "ready1,2")

    _, err = supervisor.communicate(timeout=20)

    assert supervisor.returncode == 2
    assert err.count("It is not replaced") == 2
    assert (starts(tmp_path, 1), starts(tmp_path, 2)) == (2, 2)


def test_a_temporary_fault_is_retried_once_a_process_was_ready(start: Start, tmp_path: Path) -> None:
    supervisor = start("ready1,3,3,ready")
    assert supervisor.stderr is not None

    lines = [supervisor.stderr.readline() for _ in range(3)]
    while starts(tmp_path, 1) < 4:
        assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=20)

    assert ["exit code 1" in lines[0], "exit code 3" in lines[1], "exit code 3" in lines[2]] == [True] * 3
    assert supervisor.returncode == 0
