"""Recovery of sagas that wait for events."""

import json

from orchestrator.protocol.messages.envelope import wrap
from orchestrator.workflow.own_execution import raw_json
from tests.cast_events import ApprovalRequested, Approved
from tests.house import House, new_id
from tests.temporal.recovering import done, is_visible, publish, sweep


async def test_events_that_a_saga_waits_for_are_handed_to_the_execution_that_resumes_it(idle: House) -> None:
    saga = await publish(idle, ApprovalRequested(coins=10))
    for by in ("the first", "the second"):
        approved = wrap(Approved(coins=10, by=by), event_id=new_id(), source="tests")
        await saga.handle.signal("event", raw_json(approved.text.encode()))
    await saga.terminate()
    await is_visible(idle, saga.workflow_id)

    swept = [await sweep(idle) for _ in range(2)]

    assert [done(result) for result in swept] == [{"publish": 1}, {}]
    async with idle.another_worker():
        row = await saga.ended()
        assert row.phase == "completed"
        assert json.loads(row.outcome)["event"]["data"] == {"by": "the first"}
        await saga.closed()
    assert [letter.code for letter in await idle.dead_letters()] == ["event.not_awaited"]
