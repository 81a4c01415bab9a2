"""A worker process that stops itself inside a step: `python -m tests.temporal.stopping_worker`.

Its environment tells it where it works (`SERVER`, `DATABASE`, `TASK_QUEUE`), where it says how far it is (`FOLDER`),
and in which kind of attempt it stops (`PLACE`: `local` or `regular`).
"""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from orchestrator import Transaction
from orchestrator.protocol.commands import StepCommand, StepReply
from orchestrator.store.core.database import Database
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.activities import activities_of
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.hosts import hosts_of, sandbox_for
from tests.cast import Script
from tests.house import CATALOG

FOLDER = Path(os.environ.get("FOLDER", "."))


def tell(how: str) -> None:
    """How it ended; whoever finds the file finds all of it."""
    (FOLDER / "ending").write_text(how)
    (FOLDER / "ending").rename(FOLDER / "ended")


async def stop_inside(tx: Transaction) -> None:
    """Stand still with the effect written and not committed, as a suspended machine does; go on when it is woken."""
    if activity.info().is_local != (os.environ["PLACE"] == "local"):
        raise RuntimeError("not in this attempt")
    if (FOLDER / "inside").exists():
        return
    (FOLDER / "inside").write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


class Telling(StoreSteps):
    """Says how the attempt ended that was stopped."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """A step."""
        begun_before = (FOLDER / "inside").exists()
        try:
            reply = await super().run(command, deadline, attempt=attempt)
        except BaseException as fault:
            if not begun_before and (FOLDER / "inside").exists():
                tell(f"failed: {type(fault).__name__}")
            raise
        if not begun_before and (FOLDER / "inside").exists():
            tell(f"replied: {reply.kind}")
        return reply


async def main() -> None:
    """Work until killed."""
    Script.after["put"] = stop_inside
    client = await Client.connect(os.environ["SERVER"], data_converter=worker_data_converter)
    worker = Worker(
        client,
        task_queue=os.environ["TASK_QUEUE"],
        workflows=hosts_of(CATALOG),
        activities=activities_of(CATALOG, Telling(Database(os.environ["DATABASE"]), CATALOG)),
        workflow_runner=sandbox_for(CATALOG),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )
    async with worker:
        (FOLDER / "ready").touch()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
