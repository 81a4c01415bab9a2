"""Messages in executions that were cut off: events that no saga has handled yet, and garbage."""

import pytest

from orchestrator.protocol.messages.envelope import wrap
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.recovery import Action
from tests.cast_events import CoinsMoveRequested
from tests.house import House, new_id, update
from tests.temporal.recovering import (
    EVENT,
    Published,
    Stops,
    done,
    is_visible,
    publish,
    publish_until,
    sweep,
)

pytestmark = pytest.mark.usefixtures("impatient")


async def test_an_event_whose_execution_was_terminated_before_its_first_step_is_published_again(idle: House) -> None:
    before = await idle.holdings()
    saga = await publish(idle)
    await saga.terminate()
    await is_visible(idle, saga.workflow_id)
    assert await saga.row() is None

    async with idle.another_worker():
        swept = await sweep(idle)

        assert done(swept) == {"publish": 1}
        assert (await saga.ended()).phase == "completed"
    assert await idle.holdings() == before.moved("a", "b", 10)


async def test_each_event_of_an_execution_that_was_cut_off_has_its_own_outcome(house: House, stops: Stops) -> None:
    """Three events are pasted into one start: one is completed, one is in progress, and one has not been read."""
    ids = [new_id() for _ in range(3)]
    envelopes = [wrap(EVENT, event_id=event_id, source="tests") for event_id in ids]
    stop = stops.before("step 2", ids[1])
    pasted = await house.client.start_workflow(
        "CoinsMove",
        args=[raw_json(envelope.text.encode()) for envelope in envelopes],
        id=f"pasted-{new_id()}",
        task_queue=house.task_queue,
    )
    await stop.reached.wait()
    await pasted.terminate(reason="too slow")
    await is_visible(house, pasted.id)

    swept = await sweep(house)

    phases = [(await Published(house, event_id, f"CoinsMove/event/{event_id}").ended()).phase for event_id in ids]
    assert phases == ["completed", "cancelled", "completed"]
    assert done(swept) == {"undo": 1, "publish": 1}
    assert (await house.holdings()).boxes == {"a": 80, "b": 20}


async def test_executions_are_searched_again_until_every_message_in_them_is_handled(idle: House) -> None:
    sagas = [await publish(idle) for _ in range(3)]
    for saga in sagas:
        await saga.terminate()
        await is_visible(idle, saga.workflow_id)

    swept = [await sweep(idle, ceiling=2) for _ in range(2)]

    assert [result.counts[Action.PUBLISH] for result in swept] == [2, 1]
    assert [result.swept_until is None for result in swept] == [True, False]
    async with idle.another_worker():
        assert [(await saga.ended()).phase for saga in sagas] == ["completed"] * 3


async def test_unreadable_messages_of_an_execution_that_was_cut_off_are_stored_once(house: House, stops: Stops) -> None:
    """The execution stored one of them itself; of the others, some arrived before it and some after it."""
    event_id = new_id()
    stop = stops.before("step 2", event_id)
    pasted = await house.client.start_workflow(
        "CoinsMove",
        args=["kept before", raw_json(wrap(EVENT, event_id=event_id, source="tests").text.encode())],
        id=f"pasted-{new_id()}",
        task_queue=house.task_queue,
        start_signal="event",
        start_signal_args=["came first"],
    )
    await stop.reached.wait()
    await pasted.signal("evnet", "came later")
    await pasted.signal("retry")
    await pasted.signal("event", "x" * 1_500_000)
    assert await update(pasted, "any", "by update") == {"accepted": 1}
    assert [letter.raw for letter in await house.dead_letters()] == [b'"kept before"']
    await pasted.terminate()
    await is_visible(house, pasted.id)

    swept = [await sweep(house) for _ in range(2)]

    letters = {letter.origin_position: letter for letter in await house.dead_letters()}
    assert [result.counts[Action.KEEP] for result in swept] == [4, 0]
    assert {position: letter.raw[:12] for position, letter in letters.items()} == {
        1: b'"came first"',
        2: b'"kept before',
        4: b'"came later"',
        5: b'"xxxxxxxxxxx',
        6: b'"by update"',
    }
    assert letters[5].size == len(letters[5].raw)
    assert letters[4].code == "signal.unknown"
    assert letters[6].source == "update"
    assert {letter.origin_run_id for letter in letters.values()} == {
        pasted.result_run_id or pasted.first_execution_run_id
    }
    assert (await Published(house, event_id, f"CoinsMove/event/{event_id}").ended()).phase == "cancelled"


async def test_an_event_with_a_reused_id_in_an_execution_that_was_cut_off_becomes_a_dead_letter(
    house: House, stops: Stops
) -> None:
    saga = await publish_until(house, stops, "step 2")
    different = CoinsMoveRequested(source="a", target="b", coins=11)
    for event in (different, EVENT):
        await saga.handle.signal("event", raw_json(wrap(event, event_id=saga.event_id, source="tests").text.encode()))
    await saga.terminate()
    await is_visible(house, saga.workflow_id)

    await sweep(house)

    assert [letter.code for letter in await house.dead_letters()] == ["event.id_reused"]
    assert (await saga.ended()).phase == "cancelled"
