"""Events that are sent to a running saga at moments when they are easily lost."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.common import RawValue

from orchestrator import DomainEvent
from orchestrator.protocol.commands import EndWaitCommand, StepReply
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.store.dead_letters import intake as dead_letters
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.workflow import inbox
from orchestrator.workflow.own_execution import raw_json
from tests.cast_events import ApprovalRequested, Approved, LateApprovalRequested
from tests.house import House, eventually, new_id, update


def enveloped(event: DomainEvent, event_id: str | None = None) -> RawValue:
    """The envelope of an event that is sent without the bus."""
    return raw_json(wrap(event, event_id=event_id or new_id(), source="tests").text.encode())


async def test_events_that_arrive_while_the_execution_stores_dead_letters_are_not_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The execution is about to end and must look into its inbox once more."""
    reached, opened = asyncio.Event(), asyncio.Event()
    keep = dead_letters.store_piece

    async def keep_when_opened(*arguments: Any, **options: Any) -> None:
        reached.set()
        await opened.wait()
        await keep(*arguments, **options)

    monkeypatch.setattr("orchestrator.worker.activities.store_piece", keep_when_opened)
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)
    for event_id in ("first", "second"):
        await handle.signal("event", enveloped(Approved(coins=10, by=event_id), event_id))
    await reached.wait()

    await handle.signal("event", enveloped(Approved(coins=1, by="late")))
    await handle.signal("event", raw_json(b"garbage"))
    await handle.signal("event", enveloped(ApprovalRequested(coins=5, wait_seconds=0.1), "other"))
    opened.set()

    assert (await saga.result()).by == "first"
    codes = sorted(letter.code for letter in await house.dead_letters())
    assert codes == ["event.not_awaited", "event.not_awaited", "event.not_json"]
    assert {row.event_id: row.phase for row in await house.sagas()} == {saga.event_id: "completed", "other": "failed"}


async def test_an_event_with_a_used_id_and_other_content_becomes_a_dead_letter(house: House) -> None:
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)
    await handle.signal("event", enveloped(Approved(coins=10, by="first"), "same"))
    await handle.signal("event", enveloped(Approved(coins=10, by="second"), "same"))

    assert (await saga.result()).by == "first"
    assert [letter.code for letter in await house.dead_letters()] == ["event.id_reused"]


async def test_an_event_whose_wait_was_interrupted_before_it_was_recorded_is_available_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the pivot a cancel runs `handle` again: the wait is still open, and its event must not be gone."""
    commands: list[EndWaitCommand] = []
    is_unavailable = [True]
    end_wait = StoreSteps.end_wait

    async def end_wait_if_available(self: StoreSteps, command: EndWaitCommand) -> StepReply:
        commands.append(command)
        if is_unavailable[0]:
            raise OSError("the database is unavailable")
        return await end_wait(self, command)

    monkeypatch.setattr(StoreSteps, "end_wait", end_wait_if_available)
    [saga] = await house.bus.publish(LateApprovalRequested())
    handle = house.client.get_workflow_handle(saga.workflow_id)
    await handle.signal("event", enveloped(Approved(coins=1, by="somebody")))

    async def is_tried() -> bool:
        return len(commands) >= 4

    await eventually(is_tried, "the end of the wait is attempted")
    await handle.cancel()

    async def is_delivered() -> bool:
        types = [event.event_type async for event in handle.fetch_history_events()]
        requested = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
        delivered = EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
        return requested in types and delivered in types

    await eventually(is_delivered, "the cancel is delivered to the workflow")
    is_unavailable[0] = False

    assert (await saga.result(timeout=timedelta(seconds=60))).by == "somebody"
    assert await house.dead_letters() == []


async def test_a_flood_of_events_is_read_in_several_workflow_tasks(house: House) -> None:
    """A workflow task that takes more than two seconds would fail and be repeated without end."""
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)
    large = "x" * 200_000
    await asyncio.gather(*(handle.signal("event", enveloped(Approved(coins=1, by=large))) for _ in range(60)))

    await house.bus.send(Approved(coins=10, by="olena"), to=saga.orchestrator, triggering_event_id=saga.event_id)

    assert (await saga.result(timeout=timedelta(seconds=120))).by == "olena"


async def test_a_saga_that_waits_through_more_updates_than_one_run_accepts_continues_in_another_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that were accepted but not used are carried over: they end the wait or become dead letters."""
    monkeypatch.setattr(inbox, "_RUN_UPDATES", 3)
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)

    for number in range(7):
        await update(handle, "event", enveloped(Approved(coins=1, by="too little"), f"small-{number}"))
    await update(handle, "event", enveloped(Approved(coins=10, by="olena")))

    assert (await saga.result(timeout=timedelta(seconds=60))).by == "olena"
    assert (await handle.describe()).run_id != saga.run_id
    assert [letter.code for letter in await house.dead_letters()] == ["event.not_awaited"] * 7
