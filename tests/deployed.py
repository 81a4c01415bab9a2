"""An orchestrator whose code changes while its sagas sleep: `Plan.deployed` says how the deployed version differs."""

from collections.abc import Sequence
from datetime import timedelta

from orchestrator import Orchestrator, Saga
from tests.cast import Plan, put, take, write_note
from tests.deployed_events import DeployedCompleted, DeployedFailed, DeployedRequested


class Deployed(Orchestrator[DeployedRequested, DeployedCompleted, DeployedFailed]):
    """Sleeps for an hour between two steps."""

    def locks(self, event: DeployedRequested) -> Sequence[str]:
        if Plan.deployed == "locks raise":
            raise ZeroDivisionError("a bug in locks")
        return []

    async def handle(self, event: DeployedRequested, saga: Saga) -> DeployedCompleted:
        if Plan.deployed == "another operation":
            await saga.execute(write_note("not what was recorded"))
        else:
            await saga.execute(take("a", event.coins))
        if Plan.deployed == "raises":
            raise ZeroDivisionError("a bug in handle")
        if Plan.deployed == "another step":
            await saga.execute(put("b", event.coins))
        await saga.sleep(timedelta(hours=1))
        await saga.execute(put("b", event.coins))
        return DeployedCompleted()
