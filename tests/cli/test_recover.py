"""`orchestrator recover` as a person runs it."""

import pytest
from sqlalchemy import update

from orchestrator.client import EventBus
from orchestrator.store.core.schema import saga_meta
from tests.cast import Script, fails
from tests.cast_events import CoinsMoveRequested
from tests.cli.shell import Shell
from tests.house import House, eventually, new_id

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


@pytest.fixture
async def terminated(house: House) -> str:
    """The event id of a saga whose execution was terminated after its first step."""
    Script.before["put"] = fails()
    [published] = await house.bus.publish(EVENT)

    async def has_failed() -> bool:
        return "put" in Script.runs

    await eventually(has_failed, "the first step is done, and the second has failed")
    await house.client.get_workflow_handle(published.workflow_id).terminate(reason="by the test")
    return published.event_id


async def phase_of(house: House) -> str:
    """Read the phase of the only saga."""
    [row] = await house.sagas()
    phase: str = row.phase
    return phase


async def test_a_dry_run_shows_each_saga_with_the_reason_and_a_recovery_undoes_it(
    house: House, at_home: Shell, terminated: str
) -> None:
    shown = await at_home.run("recover", "--dry-run", "--grace", "0")
    assert await phase_of(house) == "forward"
    recovered = await at_home.run("recover", "--grace", "0")

    assert (shown.code, recovered.code) == (0, 0), f"{shown}{recovered}"
    for ran, word in ((shown, "would be"), (recovered, "was")):
        assert f"CoinsMove/event/{terminated}" in ran.out
        assert word in ran.out
        assert "undone" in ran.out
        assert "by the test" in ran.out

    async def is_undone() -> bool:
        return await phase_of(house) == "cancelled"

    await eventually(is_undone, "the saga is undone")
    assert (await house.holdings()).boxes == {"a": 100, "b": 0}


async def test_the_grace_time_is_respected_and_json_contains_the_findings(
    house: House, at_home: Shell, terminated: str
) -> None:
    early = await at_home.run("recover", "--json")
    late = await at_home.run("recover", "--dry-run", "--grace", "0", "--json")

    assert early.document["looked_at"] == 0
    assert early.document["findings"] == []
    assert late.document["dry_run"] is True
    assert late.document["counts"]["undo"] == 1
    [finding] = late.document["findings"]
    assert finding["workflow_id"] == f"CoinsMove/event/{terminated}"


async def test_a_database_of_another_temporal_is_refused_and_can_be_adopted(house: House, at_home: Shell) -> None:
    async with house.database.transaction() as connection:
        await connection.execute(update(saga_meta).values(temporal_cluster_id="another"))

    refused = await at_home.run("recover", "--json")
    contradiction = await at_home.run("recover", "--adopt", "--dry-run")
    adopted = await at_home.run("recover", "--adopt")
    again = await at_home.run("recover")

    assert (refused.code, refused.document["error"]["code"]) == (2, "recovery.refused")
    assert "recover --adopt" in refused.err
    assert contradiction.code == 2
    assert (adopted.code, again.code) == (0, 0), f"{adopted}{again}"


async def test_it_says_that_no_worker_has_run_or_that_the_server_is_unreachable(
    nowhere: Shell, at_home: Shell, house: House
) -> None:
    no_tables = await nowhere.run("recover")
    no_server = await at_home.at(TEMPORAL_ADDRESS="127.0.0.1:1").run("recover")

    assert (no_tables.code, no_server.code) == (3, 3)
    assert "no worker has run" in no_tables.err
    assert "cannot be reached" in no_server.err


async def test_executions_on_a_renamed_task_queue_are_reported_and_moved(house: House, at_home: Shell) -> None:
    old = f"old-{new_id()}"
    bus = EventBus(house.client, house.catalog, task_queue=old, database=house.database)
    [handle] = await bus.publish(EVENT)

    async def is_listed() -> bool:
        return bool([run async for run in house.client.list_workflows(f'TaskQueue = "{old}"')])

    await eventually(is_listed, "the execution is listed")
    unknown = await at_home.run("status", "no-such-event")
    same = await at_home.run("recover", "--from-task-queue", house.task_queue)
    dry = await at_home.run("recover", "--dry-run", "--from-task-queue", old)
    moved = await at_home.run("recover", "--from-task-queue", old, "--json")
    again = await at_home.run("recover", "--from-task-queue", old)

    assert unknown.code == 2
    assert f"1 execution runs on the task queue '{old}', which no worker polls" in unknown.err.replace("\n", " ")
    assert same.code == 2
    assert "is the current task queue" in same.err.replace("\n", " ").replace("│ ", "")
    assert (dry.code, moved.code, again.code) == (0, 0, 0), f"{dry}{moved}{again}"
    assert f"orchestrator recover --from-task-queue {old}" in dry.err.replace("\n", " ")
    assert handle.workflow_id in [finding["workflow_id"] for finding in moved.document["findings"]]
    assert "other_task_queues" in moved.document
    await handle.result()
    assert (await house.holdings()).boxes == {"a": 90, "b": 10}
