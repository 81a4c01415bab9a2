"""Recorded histories replay with the current code, and a changed `handle` is detected."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from orchestrator.definition.catalog import Catalog
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.hosts import hosts_of, sandbox_for
from tests import swarm, swarm_next
from tests.changed_money_transfer import MoneyTransfer as ChangedMoneyTransfer
from tests.house import CATALOG

FILES = sorted((Path(__file__).parent.parent / "histories").glob("*/*.json"))
HISTORIES = {f"{file.parent.name}/{file.stem}": file.read_text() for file in FILES}
APPLICATION = [name for name in HISTORIES if "/money_transfer" in name]
OURS = Catalog.discover(["events", "activities", "workflows"])
CHANGED = Catalog.of(
    orchestrators=[ChangedMoneyTransfer], operations=OURS.operations.values(), events=OURS.events.values()
)


async def replay_failure(catalog: Catalog, name: str) -> Exception | None:
    """Replay a recorded execution with a catalog's code and return the failure, if any."""
    replayer = Replayer(
        workflows=hosts_of(catalog), workflow_runner=sandbox_for(catalog), data_converter=worker_data_converter
    )
    # An execution recognizes from its id that it is a partition.
    workflow_id = "Swarm/partition/1-of-2" if name.endswith("_partition") else name
    history = WorkflowHistory.from_json(workflow_id, HISTORIES[name])
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


def test_there_is_a_history_of_each_kind() -> None:
    assert {name.partition("/")[2] for name in HISTORIES} >= {
        "money_transfer_completed",
        "money_transfer_undone",
        "cast_handed_over_and_stuck_in_its_undo",
        "cast_waited",
        "cast_slept",
        "cast_past_its_pivot_and_stuck",
        "swarm_partition",
        "swarm_strangers_partition",
    }


@pytest.mark.parametrize("name", HISTORIES)
async def test_a_recorded_history_replays_with_the_current_code(name: str) -> None:
    catalog = swarm.CATALOG if "/swarm" in name else CATALOG
    assert await replay_failure(OURS if name in APPLICATION else catalog, name) is None


async def test_a_partitions_history_replays_with_a_changed_handle() -> None:
    [name] = [name for name in HISTORIES if name.endswith("/swarm_partition")]

    assert await replay_failure(swarm_next.NEXT, name) is None


@pytest.mark.parametrize("name", APPLICATION)
async def test_a_recorded_history_does_not_replay_with_a_changed_handle(name: str) -> None:
    failure = await replay_failure(CHANGED, name)

    assert failure is not None
    # The SDK compares the name of a regular activity; for a local one, the engine compares the reply.
    assert "but the reply is for account.withdraw" in str(failure)
