"""A worker process's sign of life. The event loop sends it to its watchdog and, over a pipe, to the supervisor."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

INTERVAL = 0.25
"""Seconds between two beats."""
BEAT = b"."
READY = b"R"
VARIABLE = "ORCHESTRATOR_SUPERVISED"
"""The environment variable with which the supervisor passes `Supervised` to the process that it starts."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a worker process knows about its supervisor."""

    pipe: int
    """The file descriptor to which the process writes signs of life."""
    number: int
    """The process's number, starting at 1."""
    processes: int
    """The number of processes of the supervisor."""

    @classmethod
    def take(cls) -> Self | None:
        """Read the variable and remove it from the environment, so that child processes do not inherit it.

        Returns:
            The description, or None if this process has no supervisor.
        """
        value = os.environ.pop(VARIABLE, None)
        if value is None:
            return None
        pipe, number, processes = (int(part) for part in value.split(","))
        os.set_inheritable(pipe, False)
        os.set_blocking(pipe, False)
        return cls(pipe, number, processes)

    def environment_value(self) -> str:
        """Return the value of the environment variable."""
        return f"{self.pipe},{self.number},{self.processes}"


class Heart:
    """Sends signs of life as long as the event loop runs.

    Args:
        pipe: the file descriptor of the pipe to the supervisor, or None without a supervisor.

    Attributes:
        beats: the number of beats so far; the watchdog's thread reads it.
    """

    def __init__(self, pipe: int | None = None) -> None:
        self.beats = 0
        self._pipe = pipe

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beats += 1
            self.send(BEAT)
            await asyncio.sleep(INTERVAL)

    def send(self, sign: bytes) -> None:
        """Send a sign to the supervisor. If the supervisor is dead, end this process."""
        if self._pipe is None:
            return
        try:
            # The pipe is full if the supervisor has been suspended. It then has enough to read when it continues.
            with suppress(BlockingIOError):
                os.write(self._pipe, sign)
        except BrokenPipeError:
            os._exit(1)  # the supervisor is dead, and its processes must not outlive it
