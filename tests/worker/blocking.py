"""Operations and orchestrators that block or kill their worker process.

An operation misbehaves once, because a file records that it has done so. `handle` misbehaves every time.
"""

import ctypes
import os
import signal
import time
from pathlib import Path

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga, Transaction, operation


class BlockRequested(DomainEvent):
    """Block, die or do neither, according to `how`."""

    how: str


class BlockCompleted(DomainEvent):
    """The saga has completed."""


class BlockFailed(FailureEvent):
    """The saga was undone."""


@operation(irreversible="it changes nothing")
async def pass_by(tx: Transaction, how: str) -> None:
    """Block the event loop or stop the process inside the transaction, but only the first time."""
    mark = Path(os.environ["MARKS"]) / how
    if how not in ("sleep", "stop") or mark.exists():
        return
    mark.write_text(str(os.getpid()))
    if how == "sleep":
        time.sleep(60)  # noqa: ASYNC251 - blocking is the fault that is tested
    else:
        os.kill(os.getpid(), signal.SIGSTOP)


def misbehave(how: str) -> None:
    """Loop or crash, according to `how`."""
    while how == "loop":
        try:
            while True:
                pass
        except BaseException:
            continue
    if how == "segfault":
        ctypes.string_at(0)


class Block(Orchestrator[BlockRequested, BlockCompleted, BlockFailed]):
    """Misbehaves in the way that its event names."""

    async def handle(self, event: BlockRequested, saga: Saga) -> BlockCompleted:
        """Loop for ever or crash in `handle`, or block in the operation."""
        misbehave(event.how)
        await saga.execute(pass_by(event.how))
        return BlockCompleted()


class CrowdRequested(DomainEvent):
    """One of many events in a partition; loop, die or do neither, according to `how`."""

    how: str
    number: int = 0
    key: str | None = None


class CrowdCompleted(DomainEvent):
    """The saga has completed."""


class CrowdFailed(FailureEvent):
    """The saga was undone."""


@operation(irreversible="it writes into a file that only a test reads")
async def record_run(tx: Transaction, number: int) -> None:
    """Append the event's number and the process id to a file."""
    with (Path(os.environ["MARKS"]) / "runs").open("a") as runs:
        runs.write(f"{number} {os.getpid()}\n")


class Crowd(Orchestrator[CrowdRequested, CrowdCompleted, CrowdFailed]):
    """Handles all its events in one partition."""

    partitions = 1

    def ordering_key(self, event: CrowdRequested) -> str | None:
        """The key in the event."""
        return event.key

    async def handle(self, event: CrowdRequested, saga: Saga) -> CrowdCompleted:
        """Misbehave in the way that the event names, or record two runs."""
        misbehave(event.how)
        await saga.execute(record_run(event.number))
        await saga.execute(record_run(event.number))
        return CrowdCompleted()
