"""The bank's worker with its supervisor: `python -m tests.chaos.worker --processes 2`.

It counts the attempts that came too late because their saga was already decided, in the file named by `CHAOS_LATE`.

Most processes have a wrong clock; each writes which one into the file named by `CHAOS_CLOCKS`.
"""

import os
from datetime import timedelta
from typing import TypeVar

from orchestrator.protocol.commands import (
    Decided,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    StepCommand,
    StepReply,
    WaitCommand,
    WaitReply,
)
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker import Manager
from tests.chaos.bank import CATALOG
from tests.chaos.clocks import set_clock

LATE = "CHAOS_LATE"
CLOCKS = "CHAOS_CLOCKS"
R = TypeVar("R")


def append_line(name: str, line: str) -> None:
    """Append a line to the file that an environment variable names; it stays whole if other processes append, too."""
    file = os.open(os.environ[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, f"{line}\n".encode())
    os.close(file)


class CountingSteps(StoreSteps):
    """The store's steps; they write a line for each attempt that was barred."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        return self._counted(await super().run(command, deadline, attempt=attempt))

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        return self._counted(await super().begin_wait(command))

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        return self._counted(await super().end_wait(command))

    async def finish(self, command: FinishCommand) -> FinishReply:
        return self._counted(await super().finish(command))

    def _counted(self, reply: R) -> R:
        if isinstance(reply, Decided):
            append_line(LATE, "barred")
        return reply


if __name__ == "__main__":
    append_line(CLOCKS, set_clock())
    Manager(catalog=CATALOG, steps=CountingSteps).main()
