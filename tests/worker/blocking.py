"""What blocks or kills a worker process: operations and orchestrators that run in processes of their own.

What an operation does wrong, it does once: a file says that it was done. `handle` does it every time.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga, Transaction, operation


class BlockRequested(DomainEvent):
    """Block, die or do nothing of the kind."""

    how: str


class BlockCompleted(DomainEvent):
    """It went well in the end."""


class BlockFailed(FailureEvent):
    """It was undone."""


@operation(irreversible="it changes nothing")
async def pass_by(tx: Transaction, how: str) -> None:
    """Block the event loop, or stop the process inside its transaction, the first time."""
    mark = Path(os.environ["MARKS"]) / how
    if how not in ("sleep", "stop") or mark.exists():
        return
    mark.write_text(str(os.getpid()))
    if how == "sleep":
        time.sleep(60)  # noqa: ASYNC251 - that is the fault
    else:
        os.kill(os.getpid(), signal.SIGSTOP)


class Block(Orchestrator[BlockRequested, BlockCompleted, BlockFailed]):
    """Blocks as its event says."""

    async def handle(self, event: BlockRequested, saga: Saga) -> BlockCompleted:
        """Loop for good, whatever interrupts, or die."""
        while event.how == "loop":
            try:
                while True:
                    pass
            except BaseException:
                continue
        if event.how == "segfault":
            ctypes.string_at(0)
        await saga.execute(pass_by(event.how))
        return BlockCompleted()
