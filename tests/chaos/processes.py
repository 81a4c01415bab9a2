"""Processes of this machine, as `ps` lists them, and the signals that chaos sends them."""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """One living process."""

    pid: int
    parent: int
    command: str


def processes() -> list[Listed]:
    """All that live; zombies do not."""
    told = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    found: list[Listed] = []
    for line in told.stdout.splitlines():
        pid, parent, state, *command = line.split(maxsplit=3)
        if not state.startswith("Z"):
            found.append(Listed(int(pid), int(parent), command[0] if command else ""))
    return found


def children(pid: int) -> list[Listed]:
    """The processes that a process has started."""
    return [process for process in processes() if process.parent == pid]


def kill(pid: int) -> None:
    """End it at once, as a crash would."""
    _send(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """Let it stand still."""
    _send(pid, signal.SIGSTOP)


def go_on(pid: int) -> None:
    """Let it go on; it may have been killed meanwhile."""
    _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
