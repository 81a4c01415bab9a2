"""A worker process's sign of life: from its event loop to its own watchdog, and by a pipe to its supervisor."""

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
"""The supervisor's word to the process it starts: the pipe's file descriptor, its number, how many there are."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a process knows of its supervisor."""

    pipe: int
    """File descriptor to which it writes signs of life."""
    number: int
    """From 1."""
    processes: int
    """How many there are."""

    @classmethod
    def take(cls) -> Self | None:
        """From the environment, for this process alone and not for those it starts; None: nobody supervises it."""
        said = os.environ.pop(VARIABLE, None)
        if said is None:
            return None
        pipe, number, processes = (int(part) for part in said.split(","))
        os.set_inheritable(pipe, False)
        os.set_blocking(pipe, False)
        return cls(pipe, number, processes)

    def said(self) -> str:
        """For the environment of the process."""
        return f"{self.pipe},{self.number},{self.processes}"


class Heart:
    """Beats as long as the event loop turns.

    Args:
        pipe: where the supervisor listens, if there is one.

    Attributes:
        beats: how many there were; the watchdog's thread reads it.
    """

    def __init__(self, pipe: int | None = None) -> None:
        self.beats = 0
        self._pipe = pipe

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beats += 1
            self.say(BEAT)
            await asyncio.sleep(INTERVAL)

    def say(self, sign: bytes) -> None:
        """Tell the supervisor."""
        if self._pipe is None:
            return
        try:
            # Full: the supervisor is stopped, and has enough to read when it wakes.
            with suppress(BlockingIOError):
                os.write(self._pipe, sign)
        except BrokenPipeError:
            os._exit(1)  # nobody supervises this process any more: it must not outlive that
