"""Events that are sent to a running saga, at the moments when they are easily lost."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.common import RawValue

from orchestrator import DomainEvent
from orchestrator.protocol.commands import EndWaitCommand, StepReply
from orchestrator.protocol.envelope import wrap
from orchestrator.store.dead_letters import intake as dead_letters
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.workflow import inbox
from orchestrator.workflow.own_execution import raw_json
from tests.cast_events import ApprovalRequested, Approved, LateApprovalRequested
from tests.house import House, eventually, new_id, update


def enveloped(event: DomainEvent, event_id: str | None = None) -> RawValue:
    """An event as somebody sends it past the bus."""
    return raw_json(wrap(event, event_id=event_id or new_id(), source="tests").text.encode())


async def test_what_comes_while_what_is_left_is_kept_is_not_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The execution is about to end, and has to look once more."""
    reached, opened = asyncio.Event(), asyncio.Event()
    keep = dead_letters.keep_piece

    async def keep_slowly(*arguments: Any, **options: Any) -> None:
        reached.set()
        await opened.wait()
        await keep(*arguments, **options)

    monkeypatch.setattr("orchestrator.worker.activities.keep_piece", keep_slowly)
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)
    for event_id in ("taken", "left"):
        await handle.signal("event", enveloped(Approved(coins=10, by=event_id), event_id))
    await reached.wait()

    await handle.signal("event", enveloped(Approved(coins=1, by="late")))
    await handle.signal("event", raw_json(b"garbage"))
    await handle.signal("event", enveloped(ApprovalRequested(coins=5, wait_seconds=0.1), "other"))
    opened.set()

    assert (await saga.result()).by == "taken"
    codes = sorted(letter.code for letter in await house.dead_letters())
    assert codes == ["event.not_awaited", "event.not_awaited", "event.not_json"]
    assert {row.event_id: row.phase for row in await house.sagas()} == {saga.event_id: "completed", "other": "failed"}


async def test_one_that_comes_again_with_other_content_is_kept(house: House) -> None:
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)
    await handle.signal("event", enveloped(Approved(coins=10, by="first"), "same"))
    await handle.signal("event", enveloped(Approved(coins=10, by="second"), "same"))

    assert (await saga.result()).by == "first"
    assert [letter.code for letter in await house.dead_letters()] == ["event.id_reused"]


async def test_one_that_was_taken_is_there_again_when_the_wait_is_cut_off_before_it_was_written_down(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the pivot a cancel begins `handle` anew: the wait is still open, and its event must not be gone."""
    tried: list[EndWaitCommand] = []
    is_away = [True]
    end_wait = StoreSteps.end_wait

    async def end_wait_when_there(self: StoreSteps, command: EndWaitCommand) -> StepReply:
        tried.append(command)
        if is_away[0]:
            raise OSError("the database is away")
        return await end_wait(self, command)

    monkeypatch.setattr(StoreSteps, "end_wait", end_wait_when_there)
    [saga] = await house.bus.publish(LateApprovalRequested())
    handle = house.client.get_workflow_handle(saga.workflow_id)
    await handle.signal("event", enveloped(Approved(coins=1, by="somebody")))

    async def is_tried() -> bool:
        return len(tried) >= 4

    await eventually(is_tried, "the end of the wait is tried")
    await handle.cancel()

    async def is_heard() -> bool:
        types = [event.event_type async for event in handle.fetch_history_events()]
        asked = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
        heard = EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
        return asked in types and heard in types

    await eventually(is_heard, "the cancel is heard")
    is_away[0] = False

    assert (await saga.result(timeout=timedelta(seconds=60))).by == "somebody"
    assert await house.dead_letters() == []


async def test_a_flood_is_looked_at_bit_by_bit(house: House) -> None:
    """A workflow task that takes over two seconds would fail, and be done again, for ever."""
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)
    large = "x" * 200_000
    await asyncio.gather(*(handle.signal("event", enveloped(Approved(coins=1, by=large))) for _ in range(60)))

    await house.bus.send(Approved(coins=10, by="olena"), to=saga.orchestrator, triggering_event_id=saga.event_id)

    assert (await saga.result(timeout=timedelta(seconds=120))).by == "olena"


async def test_a_saga_that_waits_through_more_updates_than_a_run_takes_goes_on_in_another(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted and not taken goes along: it is what is waited for, or kept in the end."""
    monkeypatch.setattr(inbox, "_RUN_UPDATES", 3)
    [saga] = await house.bus.publish(ApprovalRequested(coins=10))
    handle = house.client.get_workflow_handle(saga.workflow_id)

    for number in range(7):
        await update(handle, "event", enveloped(Approved(coins=1, by="too little"), f"small-{number}"))
    await update(handle, "event", enveloped(Approved(coins=10, by="olena")))

    assert (await saga.result(timeout=timedelta(seconds=60))).by == "olena"
    assert (await handle.describe()).run_id != saga.run_id
    assert [letter.code for letter in await house.dead_letters()] == ["event.not_awaited"] * 7
