"""Recorded histories replay with today's code; with a changed `handle` they do not, and that is seen."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from orchestrator.catalog import Catalog
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.hosts import hosts_of, sandbox_for
from tests.changed_money_transfer import MoneyTransfer as ChangedMoneyTransfer

FILES = sorted((Path(__file__).parent.parent / "histories").glob("*/*.json"))
HISTORIES = {f"{file.parent.name}/{file.stem}": file.read_text() for file in FILES}
OURS = Catalog.discover(["events", "activities", "workflows"])
CHANGED = Catalog.of(
    orchestrators=[ChangedMoneyTransfer], operations=OURS.operations.values(), events=OURS.events.values()
)


async def replay_failure(catalog: Catalog, name: str) -> Exception | None:
    """What goes wrong when a recorded execution meets the catalog's code."""
    replayer = Replayer(
        workflows=hosts_of(catalog), workflow_runner=sandbox_for(catalog), data_converter=worker_data_converter
    )
    history = WorkflowHistory.from_json(f"MoneyTransfer/event/{name}", HISTORIES[name])
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


def test_there_is_a_completed_and_an_undone_history() -> None:
    assert {"money_transfer_completed", "money_transfer_undone"} <= {name.partition("/")[2] for name in HISTORIES}


@pytest.mark.parametrize("name", HISTORIES)
async def test_a_recorded_history_replays_with_todays_code(name: str) -> None:
    assert await replay_failure(OURS, name) is None


@pytest.mark.parametrize("name", HISTORIES)
async def test_a_recorded_history_does_not_replay_with_a_changed_handle(name: str) -> None:
    failure = await replay_failure(CHANGED, name)

    assert failure is not None
    assert "Nondeterminism" in type(failure).__name__ + str(failure)
