"""How recovery is scheduled, and where it refuses to run."""

from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.store.belonging import RecoveryRefused
from orchestrator.worker.recovery.schedule import schedule_id
from orchestrator.workflow.system.recovery import SagaRecovery
from tests.house import House, new_id
from tests.temporal.recovering import (
    Stops,
    belongs_to,
    done,
    manager_of,
    publish_until,
    recovery_of,
    sweep,
)

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("other", [{"temporal_namespace": "production"}, {"temporal_cluster_id": "another"}])
async def test_a_database_of_another_temporal_is_refused_until_it_is_adopted(
    house: House, stops: Stops, other: dict[str, str]
) -> None:
    saga = await publish_until(house, stops, "step 2")
    await saga.delete()
    await belongs_to(house, **other)

    with pytest.raises(RecoveryRefused, match="recover --adopt"):
        await sweep(house)
    scheduled = await house.client.start_workflow(SagaRecovery.run, id=new_id(), task_queue=house.task_queue)
    with pytest.raises(WorkflowFailureError) as raised:
        await scheduled.result()
    assert "belongs to" in str(raised.value.cause.__cause__)
    assert (await saga.row()).drives == 1

    await recovery_of(house).adopt()
    assert done(await sweep(house)) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"


async def test_a_worker_creates_the_schedule_and_recovery_then_runs_by_itself(house: House, stops: Stops) -> None:
    saga = await publish_until(house, stops, "step 2")
    await saga.terminate()
    handle = house.client.get_schedule_handle(schedule_id(house.task_queue))
    try:
        await manager_of(house, recovery_interval=1).schedule_recovery(house.ready)

        assert (await saga.ended()).phase == "cancelled"
        described = await handle.describe()
        assert isinstance(described.schedule.action, ScheduleActionStartWorkflow)
        assert described.schedule.action.task_queue == house.task_queue
    finally:
        await handle.delete()


async def test_the_schedule_follows_the_setting_and_stays_paused_if_it_was_paused(idle: House) -> None:
    handle = idle.client.get_schedule_handle(schedule_id(idle.task_queue))

    async def interval() -> list[timedelta]:
        return [interval.every for interval in (await handle.describe()).schedule.spec.intervals]

    await manager_of(idle, recovery_interval=3600).schedule_recovery(idle.ready)
    assert await interval() == [timedelta(hours=1)]
    await handle.pause(note="by a person")

    await manager_of(idle, recovery_interval=7200).schedule_recovery(idle.ready)
    assert await interval() == [timedelta(hours=2)]
    assert (await handle.describe()).schedule.state.paused
    updated = (await handle.describe()).info.last_updated_at

    await manager_of(idle, recovery_interval=7200).schedule_recovery(idle.ready)
    assert (await handle.describe()).info.last_updated_at == updated

    for _ in range(2):
        await manager_of(idle, recovery_interval=0).schedule_recovery(idle.ready)
    with pytest.raises(RPCError) as raised:
        await handle.describe()
    assert raised.value.status is RPCStatusCode.NOT_FOUND


async def test_a_worker_that_may_not_create_the_schedule_says_so_and_continues(
    idle: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refused(*args: Any, **options: Any) -> None:
        raise RPCError("no permission", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(Client, "create_schedule", refused)
    await belongs_to(idle, temporal_cluster_id="another")

    await manager_of(idle, recovery_interval=3600).schedule_recovery(idle.ready)

    lines = capsys.readouterr().err.splitlines()
    [mismatch] = [line for line in lines if "belongs to" in line]
    [schedule] = [line for line in lines if "no permission" in line]
    assert "recover --adopt" in mismatch
    assert "orchestrator recover" in schedule
