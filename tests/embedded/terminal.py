"""A command in a terminal: a test reads what it prints, and types."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.embedded.processes import processes_with

PATIENCE = 120
"""Seconds that a loaded machine may take until a text is printed."""
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs between a new session and the command, so that Ctrl-C in the terminal reaches the command."""


class Terminal:
    """A command with a terminal of its own.

    Args:
        command: the program's full path and its arguments.
        environment: all environment variables.
        folder: where it runs.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.output = ""
        self._ours, theirs = os.openpty()
        self._open = True
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    async def until(self, text: str) -> None:
        """Read until the command has printed a text."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.output:
                assert await self._read(), f"ended without {text!r}: {self.output}"

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    async def end(self) -> int:
        """Read to the end; return the exit code, or minus the number of the signal that ended the command."""
        async with asyncio.timeout(PATIENCE):
            while await self._read():
                pass
            return await asyncio.to_thread(self.process.wait)

    def hang_up(self) -> None:
        """Close the window."""
        if self._open:
            self._open = False
            os.close(self._ours)

    async def _read(self) -> bool:
        try:
            more = await asyncio.to_thread(os.read, self._ours, 65536)
        except OSError:  # how a terminal reports that its other side is closed
            return False
        self.output += more.decode(errors="replace")
        return bool(more)


@contextmanager
def terminal(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, *, variable: str
) -> Generator[Terminal]:
    """Run a command in a terminal, and end whatever a failed test leaves running.

    Args:
        command: the program's full path and its arguments.
        environment: all environment variables.
        folder: where it runs.
        variable: the `NAME=value` by which the processes that it starts are found.
    """
    made = Terminal(command, environment, folder)
    try:
        yield made
    finally:
        for pid in processes_with(variable):
            os.kill(pid, signal.SIGKILL)
        made.process.wait()
        made.hang_up()
