"""The bank's worker: `python -m tests.chaos.worker --processes 2`, with the supervisor that every worker has.

It counts attempts that came too late: that met a saga which something else had decided. `CHAOS_LATE` names the file.

Most processes have a wrong clock. `CHAOS_CLOCKS` names the file in which each says how.
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
    """Add a line to the file that an environment variable names; whole, whoever else adds one."""
    file = os.open(os.environ[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, f"{line}\n".encode())
    os.close(file)


class CountingSteps(StoreSteps):
    """The store's steps, which write a line for each attempt that was barred."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """Attempt a step."""
        return self._counted(await super().run(command, deadline, attempt=attempt))

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Write down that the saga waits."""
        return self._counted(await super().begin_wait(command))

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """Write down how a wait ended."""
        return self._counted(await super().end_wait(command))

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        return self._counted(await super().finish(command))

    def _counted(self, reply: R) -> R:
        if isinstance(reply, Decided):
            append_line(LATE, "barred")
        return reply


if __name__ == "__main__":
    append_line(CLOCKS, set_clock())
    Manager(catalog=CATALOG, steps=CountingSteps).main()
