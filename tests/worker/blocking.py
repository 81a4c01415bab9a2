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


def do_wrong(how: str) -> None:
    """What `handle` does wrong, every time."""
    while how == "loop":
        try:
            while True:
                pass
        except BaseException:
            continue
    if how == "segfault":
        ctypes.string_at(0)


class Block(Orchestrator[BlockRequested, BlockCompleted, BlockFailed]):
    """Blocks as its event says."""

    async def handle(self, event: BlockRequested, saga: Saga) -> BlockCompleted:
        """Loop for good, whatever interrupts, or die."""
        do_wrong(event.how)
        await saga.execute(pass_by(event.how))
        return BlockCompleted()


class CrowdRequested(DomainEvent):
    """Be one of many in a partition; loop, die or do nothing of the kind."""

    how: str
    number: int = 0
    key: str | None = None


class CrowdCompleted(DomainEvent):
    """It went well."""


class CrowdFailed(FailureEvent):
    """It was undone."""


@operation(irreversible="it writes into a file that nobody reads but a test")
async def note_turn(tx: Transaction, number: int) -> None:
    """Write down whose turn it is, and in which process."""
    with (Path(os.environ["MARKS"]) / "turns").open("a") as turns:
        turns.write(f"{number} {os.getpid()}\n")


class Crowd(Orchestrator[CrowdRequested, CrowdCompleted, CrowdFailed]):
    """All of them in one partition."""

    partitions = 1

    def ordering_key(self, event: CrowdRequested) -> str | None:
        """The event's own."""
        return event.key

    async def handle(self, event: CrowdRequested, saga: Saga) -> CrowdCompleted:
        """Do wrong as its event says, or take two turns."""
        do_wrong(event.how)
        await saga.execute(note_turn(event.number))
        await saga.execute(note_turn(event.number))
        return CrowdCompleted()
