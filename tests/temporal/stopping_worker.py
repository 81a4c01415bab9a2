"""A worker process that suspends itself inside a step: `python -m tests.temporal.stopping_worker`.

Environment variables say where it connects (`SERVER`, `DATABASE`, `TASK_QUEUE`), into which folder it writes its
progress (`FOLDER`), and in which kind of attempt it suspends itself (`ATTEMPT`: `local` or `regular`).
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


def report(ending: str) -> None:
    """Write how the attempt ended. The file appears under its final name only when it is complete."""
    (FOLDER / "ending").write_text(ending)
    (FOLDER / "ending").rename(FOLDER / "ended")


async def stop_inside(tx: Transaction) -> None:
    """Suspend the process while the effect is written but not committed; continue when the test wakes it."""
    if activity.info().is_local != (os.environ["ATTEMPT"] == "local"):
        raise RuntimeError("not in this attempt")
    if (FOLDER / "inside").exists():
        return
    (FOLDER / "inside").write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


class ReportingSteps(StoreSteps):
    """Reports how the suspended attempt ended."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        was_suspended_before = (FOLDER / "inside").exists()
        try:
            reply = await super().run(command, deadline, attempt=attempt)
        except BaseException as fault:
            if not was_suspended_before and (FOLDER / "inside").exists():
                report(f"failed: {type(fault).__name__}")
            raise
        if not was_suspended_before and (FOLDER / "inside").exists():
            report(f"replied: {reply.kind}")
        return reply


async def main() -> None:
    """Work until the process is killed."""
    Script.after["put"] = stop_inside
    client = await Client.connect(os.environ["SERVER"], data_converter=worker_data_converter)
    worker = Worker(
        client,
        task_queue=os.environ["TASK_QUEUE"],
        workflows=hosts_of(CATALOG),
        activities=activities_of(CATALOG, ReportingSteps(Database(os.environ["DATABASE"]), CATALOG)),
        workflow_runner=sandbox_for(CATALOG),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
    )
    async with worker:
        (FOLDER / "ready").touch()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
