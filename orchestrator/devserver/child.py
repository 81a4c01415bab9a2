"""A process that belongs to this one: it writes to a file, hears no Ctrl-C, and never outlives us.

It lives in a session of its own, so that a terminal's Ctrl-C reaches only us and we end it when we are done with it.
Should we be killed, it is killed too (see `_tied`). On Linux that also holds for the thread that started it: start it
from one that stays, such as the main thread.
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
_LOOK = 0.02
"""Seconds between two looks at whether it has ended."""

Tie = Literal["kernel", "pipe"]
TIE: Tie = "kernel" if sys.platform == "linux" else "pipe"


class Child:
    """One child process; made by `start`."""

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
    ) -> Self:
        """Start a command.

        Args:
            command: a program's full path and its arguments.
            log: takes both of its outputs; begun anew.
            env: its whole environment; ours if not given.
            cwd: where it runs.
            holding: file descriptors it keeps open as long as it lives, such as a lock.
            tie: how it is kept from outliving us.

        Raises:
            OSError: it could not be started.
        """
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                tied(command, tie),
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
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.exit_code is not None

    @property
    def exit_code(self) -> int | None:
        """What it ended with: minus a signal's number if that ended it, None while it runs."""
        code = self._process.poll()
        if code is not None and self._process.stdin is not None:
            self._process.stdin.close()
        return code

    async def wait_ended(self) -> int:
        """Wait for its end.

        Returns:
            Its exit code, minus a signal's number if that ended it.
        """
        while (code := self.exit_code) is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        return code

    async def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds, or it has ended.

        Returns:
            Whether the condition holds.
        """
        while not (holds := condition()) and not self.has_ended:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        return holds

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        self._signal(signal.SIGKILL)
        await self.wait_ended()

    async def stop(self, *, seconds: float) -> bool:
        """Ask it to end, and kill it if it takes longer than `seconds`; it is over when this returns.

        Returns:
            Whether it ended by itself.
        """
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await self.wait_ended()
        except TimeoutError:
            await self.kill()
            return False
        finally:
            # Cancelled while waiting: whoever is in that much of a hurry must not leave it behind either.
            self._signal(signal.SIGKILL)
        return True

    def last_lines(self) -> str:
        """The end of its log, indented, for an error message."""
        return last_lines(self.log)

    def _signal(self, number: signal.Signals) -> None:
        if not self.has_ended:
            self._process.send_signal(number)


def tied(command: Sequence[str], tie: Tie = TIE) -> list[str]:
    """The command that runs a command tied to this process; its standard input must be a pipe that only we hold."""
    return [sys.executable, "-I", "-S", str(_TIED), str(os.getpid()), tie, *command]


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log, indented, for an error message."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-count:])
