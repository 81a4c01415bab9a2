"""A child process that writes to a file, is not reached by Ctrl-C, and never outlives this process.

The child runs in its own session, so that a terminal's Ctrl-C reaches only this process, which then stops the child. If
this process is killed, the child is killed as well (see `_tied`). On Linux the child also ends with the thread that
started it, so start it from a thread that lasts, such as the main thread.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

_TIED = Path(__file__).with_name("_tied.py")
_POLL_SECONDS = 0.02
"""How often it is checked whether the child has ended, in seconds."""

Tie = Literal["kernel", "pipe"]
TIE: Tie = "kernel" if sys.platform == "linux" else "pipe"


class Child:
    """A child process. `start` creates one."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        holding: Sequence[int] = (),
        tie: Tie = TIE,
        user: str = "",
    ) -> Self:
        """Start a command.

        Args:
            command: a program's full path and its arguments.
            log: the file for its standard output and standard error, which is overwritten.
            env: the child's whole environment; by default that of this process.
            cwd: the child's working directory.
            holding: file descriptors that the child keeps open, such as a lock.
            tie: how to ensure that the child does not outlive this process.
            user: the operating system's user who runs the child; by default that of this process. Only root may set it.

        Raises:
            OSError: the command could not be started.
        """
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                tied(command, tie, user),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                pass_fds=tuple(holding),
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the child has ended."""
        return self.exit_code is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code: negative for a signal, or None while the child runs."""
        code = self._process.poll()
        if code is not None and self._process.stdin is not None:
            self._process.stdin.close()
        return code

    async def wait_ended(self) -> int:
        """Wait until the child ends.

        Returns:
            The exit code, which is negative for a signal.
        """
        while (code := self.exit_code) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        return code

    async def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds or the child has ended.

        Returns:
            Whether the condition holds.
        """
        while not (holds := condition()) and not self.has_ended:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        return holds

    async def kill(self) -> None:
        """Kill the child immediately, as in a crash."""
        self._signal(signal.SIGKILL)
        await self.wait_ended()

    async def stop(self, *, seconds: float, number: signal.Signals = signal.SIGTERM) -> bool:
        """Ask the child to end, kill it if it still runs after `seconds`, and wait until it has ended.

        Args:
            seconds: how long the child may take to end.
            number: the signal that asks it to end.

        Returns:
            Whether the child ended without being killed.
        """
        self._signal(number)
        try:
            async with asyncio.timeout(seconds):
                await self.wait_ended()
        except TimeoutError:
            await self.kill()
            return False
        finally:
            # If the wait was cancelled, the child must not keep running.
            self._signal(signal.SIGKILL)
        return True

    def last_lines(self) -> str:
        """The end of the child's log, indented for an error message."""
        return last_lines(self.log)

    def _signal(self, number: signal.Signals) -> None:
        if not self.has_ended:
            self._process.send_signal(number)


def tied(command: Sequence[str], tie: Tie = TIE, user: str = "") -> list[str]:
    """Return a command that ties `command` to this process. Only this process may hold its standard input."""
    return [sys.executable, "-I", "-S", str(_TIED), str(os.getpid()), tie, user, *command]


def last_lines(log: Path, count: int = 8) -> str:
    """Return the end of a log, indented for an error message."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-count:])
