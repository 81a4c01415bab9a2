"""The driver's port straight onto the database: what activities call, and what a test drives in-process."""

from datetime import timedelta

from orchestrator.catalog import Catalog
from orchestrator.drive.messages import (
    FinishCommand,
    FinishReply,
    StepCommand,
    StepReply,
    StuckCommand,
    TurnCommand,
    TurnReply,
    UndoCommand,
    UndoReply,
)
from orchestrator.store.database import Database
from orchestrator.store.fence import run_step
from orchestrator.store.finish import finish_saga
from orchestrator.store.turn import mark_stuck, turn_to_undoing, undo_step


class StoreSteps:
    """One attempt a call; what fails is raised as it is, and retrying is the caller's."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self.database = database
        self.catalog = catalog

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """Attempt a step."""
        return await run_step(self.database, self.catalog, command, attempt=attempt)

    async def turn(self, command: TurnCommand) -> TurnReply:
        """Turn to undoing."""
        return await turn_to_undoing(self.database, self.catalog, command)

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo one step."""
        return await undo_step(self.database, self.catalog, command)

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Write the outcome."""
        return await finish_saga(self.database, self.catalog, command)

    async def stick(self, command: StuckCommand) -> None:
        """Show that the saga waits for a person."""
        await mark_stuck(self.database, command)
