"""Recovery races: two sweeps, a sweep that is interrupted, and a driver that is faster than the sweep."""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from orchestrator.protocol.messages.envelope import wrap
from orchestrator.worker.recovery.execution_status import ExecutionStatus, status_of_execution
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.recovery import SagaRecovery
from tests.cast import Script
from tests.house import House, new_id
from tests.temporal.recovering import (
    EVENT,
    POINTS,
    Published,
    Stops,
    done,
    pause_at,
    publish,
    publish_until,
    sweep,
)

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("point", POINTS)
async def test_two_concurrent_sweeps_do_what_one_does(
    house: House, stops: Stops, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 3")
    await saga.terminate()
    pause = pause_at(point, monkeypatch)

    first = asyncio.create_task(sweep(house))
    await pause.reached.wait()
    await sweep(house)
    row = await saga.ended()
    pause.opened.set()
    await first
    await saga.closed()

    assert row.phase == "cancelled"
    assert await saga.row() == row
    assert await house.holdings() == before
    assert len(await house.outbox()) == 1
    assert Script.runs.count("give_back") == 1


@pytest.mark.parametrize("point", POINTS)
async def test_the_next_sweep_completes_a_recovery_that_was_terminated(
    house: House, stops: Stops, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 3")
    await saga.terminate()
    pause = pause_at(point, monkeypatch)
    first = await house.client.start_workflow(SagaRecovery.run, id=new_id(), task_queue=house.task_queue)
    await pause.reached.wait()

    await first.terminate()
    swept = await house.client.execute_workflow(SagaRecovery.run, id=new_id(), task_queue=house.task_queue)

    row = await saga.ended()
    if point != "after ensure":  # there an execution already drives the saga and may end it before the second sweep
        assert swept.looked_at == 1
    assert (row.phase, row.error_code) == ("cancelled", "saga.terminated")
    pause.opened.set()
    await saga.closed()
    assert await saga.row() == row
    assert await house.holdings() == before


async def test_a_saga_that_another_execution_has_resumed_is_not_undone(
    house: House, stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep saw that the execution was terminated; before it decides, the event is published again."""
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 2")
    await saga.terminate()
    pause = pause_at("before undo", monkeypatch)
    sweeping_task = asyncio.create_task(sweep(house))
    await pause.reached.wait()
    stop = stops.before("finish", saga.event_id)
    await publish(house, EVENT, saga.event_id)
    await stop.reached.wait()

    pause.opened.set()
    swept = await sweeping_task
    stops.open_all()

    assert done(swept) == {}
    assert (await saga.ended()).phase == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_saga_that_ends_after_the_sweep_read_its_row_is_not_driven_again(
    house: House, stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    saga = await publish_until(house, stops, "finish")

    async def status_after_the_end(*arguments: Any) -> ExecutionStatus:
        stops.open_all()
        await saga.closed()
        return await status_of_execution(*arguments)

    monkeypatch.setattr("orchestrator.worker.recovery.stalled_sagas.status_of_execution", status_after_the_end)

    swept = await sweep(house)

    assert (swept.looked_at, done(swept)) == (1, {})
    assert (await saga.row()).phase == "completed"
    runs = house.client.list_workflows(f"WorkflowId = '{saga.workflow_id}'")
    assert [run.status async for run in runs] == [WorkflowExecutionStatus.COMPLETED]


async def test_a_saga_that_was_terminated_twice_is_undone_with_the_last_reason(house: House, stops: Stops) -> None:
    """The second execution was terminated before its first transaction, so the first one still owns the saga."""
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 2")
    await saga.terminate("first")
    stop = stops.before("step 1", saga.event_id)
    await publish(house, EVENT, saga.event_id)
    await stop.reached.wait()
    await saga.terminate("second")

    await sweep(house)

    row = await saga.ended()
    assert (row.phase, "second" in row.message) == ("cancelled", True)
    assert await house.holdings() == before


async def test_a_running_saga_that_was_published_again_is_left_alone_even_if_its_owner_was_terminated(
    house: House, stops: Stops
) -> None:
    event_id = new_id()
    stop = stops.before("step 2", event_id)
    pasted = await house.client.start_workflow(
        "CoinsMove",
        raw_json(wrap(EVENT, event_id=event_id, source="tests").text.encode()),
        id=f"pasted-{new_id()}",
        task_queue=house.task_queue,
    )
    await stop.reached.wait()
    await pasted.terminate()
    second_stop = stops.before("step 1", event_id)
    saga = await publish(house, EVENT, event_id)
    await second_stop.reached.wait()

    swept = await sweep(house)
    stops.open_all()

    assert (swept.alive, done(swept)) == (1, {})
    assert (await saga.ended()).phase == "completed"


async def test_the_end_of_an_owner_is_found_even_if_another_execution_has_its_workflow_id(
    house: House, stops: Stops
) -> None:
    """People choose the workflow ids of pasted events, and may choose one again."""
    first, second = new_id(), new_id()
    same_id = f"pasted-{new_id()}"
    for event_id in (first, second):
        stop = stops.before("step 2", event_id)
        pasted = await house.client.start_workflow(
            "CoinsMove",
            raw_json(wrap(EVENT, event_id=event_id, source="tests").text.encode()),
            id=same_id,
            task_queue=house.task_queue,
        )
        await stop.reached.wait()
        if event_id == first:
            await pasted.terminate()

    swept = await sweep(house)
    stops.open_all()

    assert (swept.alive, done(swept)) == (1, {"undo": 1})
    phases = [
        (await Published(house, event_id, f"CoinsMove/event/{event_id}").ended()).phase for event_id in (first, second)
    ]
    assert phases == ["cancelled", "completed"]
