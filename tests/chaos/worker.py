"""The bank's worker: `python -m tests.chaos.worker --processes 2`, with the supervisor that every worker has.

It counts attempts that came too late: that met a saga which something else had decided. `CHAOS_LATE` names the file.
"""

import os
from datetime import timedelta
from typing import TypeVar

from orchestrator.drive.messages import (
    Decided,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    StepCommand,
    StepReply,
    WaitCommand,
    WaitReply,
)
from orchestrator.store.steps import StoreSteps
from orchestrator.worker import Manager
from tests.chaos.bank import CATALOG

LATE = "CHAOS_LATE"
R = TypeVar("R")


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
            file = os.open(os.environ[LATE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(file, b"barred\n")
            os.close(file)
        return reply


if __name__ == "__main__":
    Manager(catalog=CATALOG, steps=CountingSteps).main()
