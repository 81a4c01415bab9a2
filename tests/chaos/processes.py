"""Processes of this machine, as `ps` lists them, and the signals that chaos sends to them."""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """A living process."""

    pid: int
    parent: int
    command: str


def processes() -> list[Listed]:
    """List all living processes; zombies are left out."""
    output = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    living: list[Listed] = []
    for line in output.stdout.splitlines():
        pid, parent, state, *command = line.split(maxsplit=3)
        if not state.startswith("Z"):
            living.append(Listed(int(pid), int(parent), command[0] if command else ""))
    return living


def children(pid: int) -> list[Listed]:
    """List the child processes of a process."""
    return [process for process in processes() if process.parent == pid]


def kill(pid: int) -> None:
    """Kill a process, as a crash would."""
    _send(pid, signal.SIGKILL)


def suspend(pid: int) -> None:
    """Suspend a process."""
    _send(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Resume a process, which may have been killed meanwhile."""
    _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
