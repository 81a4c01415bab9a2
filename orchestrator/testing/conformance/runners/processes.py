"""Faults of processes: a real one that drives, and is killed with SIGKILL inside its open transaction."""

from orchestrator.testing.conformance.faults import fault, is_undone, runs_an_operation, was_done
from orchestrator.testing.conformance.killed_worker import drive_and_be_killed
from orchestrator.testing.conformance.scenario import Stage


@fault(
    "worker killed inside",
    "a process is killed with SIGKILL inside the step, before the commit of its effect: another one continues",
    runs_an_operation,
    was_done,
)
async def worker_killed_inside(stage: Stage) -> None:
    """The database rolls back what its connection left."""
    await drive_and_be_killed(stage, f"inside {stage.here}")
    await stage.drive()


@fault(
    "worker killed after",
    "a process is killed with SIGKILL after the step's commit: another one continues",
    runs_an_operation,
)
async def worker_killed_after(stage: Stage) -> None:
    """The step answers what it recorded."""
    await drive_and_be_killed(stage, f"after {stage.here}")
    await stage.drive()


@fault(
    "worker killed while undoing",
    "a process is killed with SIGKILL inside the compensation: another one undoes the rest",
    is_undone,
    was_done,
)
async def worker_killed_while_undoing(stage: Stage) -> None:
    """The step is done until its compensation is committed."""
    stage.ending = "taken back"
    await drive_and_be_killed(stage, f"inside undo {stage.number}", turned_back_after=f"after {stage.here}")
    await stage.drive()
