"""Recovery, on the real server and on both databases: a saga has one outcome, whatever happens to its execution."""

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.executions.own_execution import ensure_own_execution
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.store.core.schema import saga as saga_table
from orchestrator.store.core.schema import saga_meta
from orchestrator.worker.recovery import execution_status as fate
from orchestrator.worker.recovery import limits as sweeping
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.recovery import Action
from tests.cast import Script, refuses
from tests.cast_events import CoinsMoveRequested, NothingRequested
from tests.house import House, new_id, rows
from tests.temporal.recovering import (
    EVENT,
    LETTER,
    Published,
    Stops,
    done,
    is_visible,
    publish,
    publish_until,
    recovery_of,
    sweep,
)

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_terminated_saga_is_undone_and_the_outcome_names_the_reason(house: House, stops: Stops) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 3")
    await saga.terminate("the wrong account")

    swept = await sweep(house)

    row = await saga.ended()
    assert done(swept) == {"undo": 1}
    assert (row.phase, row.error_code, row.ended_by) == ("cancelled", "saga.terminated", "recovery")
    assert "the wrong account" in row.message
    assert await house.holdings() == before
    assert len(await house.outbox()) == 1


async def test_a_saga_terminated_during_its_undo_is_undone_completely(house: House, stops: Stops) -> None:
    before = await house.holdings()
    Script.before["write_note"] = refuses("note.too_long")
    saga = await publish_until(house, stops, "undo 1")
    await saga.terminate()

    swept = await sweep(house)

    row = await saga.ended()
    assert done(swept) == {"resume": 1}
    assert (row.phase, row.error_code) == ("failed", "note.too_long")
    assert await house.holdings() == before


async def test_a_saga_terminated_past_its_pivot_is_completed(house: House, stops: Stops) -> None:
    saga = await publish_until(house, stops, "finish", LETTER)
    await saga.terminate()

    swept = await sweep(house)

    assert done(swept) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"
    assert (await house.holdings()).boxes["a"] == 90


async def test_a_saga_that_was_reset_continues_by_itself_and_nothing_is_doubled(house: House, stops: Stops) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 3")
    await saga.reset()

    swept = await sweep(house)

    assert (await saga.ended()).phase == "completed"
    assert done(swept) == {}
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_saga_whose_execution_was_deleted_resumes(house: House, stops: Stops) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 2")
    await saga.delete()

    swept = await sweep(house)

    assert done(swept) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_saga_whose_execution_timed_out_resumes(house: House, stops: Stops) -> None:
    """The engine sets no execution timeout, but a person who starts one by hand may."""
    event_id = new_id()
    stops.before("step 2", event_id)
    pasted = await house.client.start_workflow(
        "CoinsMove",
        raw_json(wrap(EVENT, event_id=event_id, source="tests").text.encode()),
        id=f"pasted-{new_id()}",
        task_queue=house.task_queue,
        execution_timeout=timedelta(seconds=2),
    )
    await Published(house, event_id, pasted.id).closed()
    await is_visible(house, pasted.id)

    swept = await sweep(house)

    # On a slow machine it may time out before its first step.
    assert done(swept) in ({"resume": 1}, {"publish": 1})
    assert (await Published(house, event_id, f"CoinsMove/event/{event_id}").ended()).phase == "completed"


async def test_a_saga_whose_execution_is_just_being_deleted_resumes(house: House, stops: Stops) -> None:
    """The server terminates a running execution before it deletes it, and a sweep may run in between."""
    address = house.client.service_client.config.target_host
    deleting = await Client.connect(address, identity="history-service")
    saga = await publish_until(house, stops, "step 2")
    await deleting.get_workflow_handle(saga.workflow_id).terminate(reason="Delete workflow execution")

    swept = await sweep(house)

    assert done(swept) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"


async def test_a_saga_that_sleeps_is_recovered_as_soon_as_its_execution_is_terminated(
    house: House, stops: Stops
) -> None:
    saga = await publish_until(house, stops, "step 2")
    async with house.database.transaction() as connection:
        later = (await saga.row()).created_at + timedelta(minutes=30)
        await connection.execute(update(saga_table).values(next_at=later))
    swept = await sweep(house)
    assert swept.looked_at == 0

    await saga.terminate()
    await is_visible(house, saga.workflow_id)
    await sweep(house)

    assert (await saga.ended()).phase == "cancelled"


async def test_a_saga_whose_execution_completed_without_it_resumes(house: House) -> None:
    """This happens when a database was restored from a backup."""
    before = await house.holdings()
    saga = await publish(house)
    await saga.ended()
    await saga.closed()
    async with house.database.transaction() as connection:
        restored = update(saga_table).values(phase="forward", outcome=None, outcome_event_id=None, finished_at=None)
        await connection.execute(restored)
        await connection.exec_driver_sql("DELETE FROM saga_outbox")

    swept = await sweep(house)

    assert done(swept) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_live_sagas_are_left_alone(house: House, stops: Stops) -> None:
    sagas = [await publish_until(house, stops, "step 2") for _ in range(3)]

    swept = await sweep(house)

    assert (swept.looked_at, swept.alive, done(swept)) == (3, 3, {})
    assert [(await saga.row()).drives for saga in sagas] == [1, 1, 1]
    stops.open_all()
    assert [(await saga.ended()).phase for saga in sagas] == ["completed"] * 3


async def test_a_saga_that_has_made_no_progress_for_less_than_the_grace_time_is_left_alone(
    house: House, stops: Stops
) -> None:
    saga = await publish_until(house, stops, "step 2")
    await saga.terminate()
    await is_visible(house, saga.workflow_id)

    swept = await sweep(house, grace=timedelta(hours=1))

    assert (swept.looked_at, done(swept)) == (0, {})
    assert (await saga.row()).phase == "forward"


async def test_the_ceiling_bounds_what_a_sweep_does_and_live_sagas_do_not_count(house: House, stops: Stops) -> None:
    live = [await publish_until(house, stops, "step 2") for _ in range(3)]
    dead = [await publish_until(house, stops, "step 2") for _ in range(5)]
    for saga in dead:
        await saga.terminate()
        await is_visible(house, saga.workflow_id)

    swept = [await sweep(house, ceiling=2) for _ in range(3)]

    assert [result.counts[Action.UNDO] for result in swept] == [2, 2, 1]
    assert [(await saga.ended()).phase for saga in dead] == ["cancelled"] * 5
    stops.open_all()
    assert [(await saga.ended()).phase for saga in live] == ["completed"] * 3


async def test_a_saga_that_cannot_be_recovered_stops_no_other_and_does_not_count_towards_the_ceiling(
    house: House, stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    sagas = [await publish_until(house, stops, "step 2") for _ in range(4)]
    for saga in sagas:
        await saga.delete()
    ensure = ensure_own_execution

    async def ensure_others(client: Client, orchestrator: str, envelope: Any, *args: Any, **options: Any) -> Any:
        if envelope.event_id in {saga.event_id for saga in sagas[:2]}:
            raise RPCError("refused by the test", RPCStatusCode.PERMISSION_DENIED, b"")
        return await ensure(client, orchestrator, envelope, *args, **options)

    monkeypatch.setattr(sweeping, "ensure_own_execution", ensure_others)

    swept = [await sweep(house, ceiling=1) for _ in range(3)]

    # The order of sagas is random; by the third sweep only those that fail are left.
    assert [result.counts[Action.RESUME] for result in swept] == [1, 1, 0]
    assert swept[2].counts[Action.FAIL] > 0
    assert [(await saga.ended()).phase for saga in sagas[2:]] == ["completed"] * 2
    monkeypatch.undo()
    await sweep(house)
    assert [(await saga.ended()).phase for saga in sagas] == ["completed"] * 4


async def test_a_saga_whose_orchestrator_or_contract_is_unknown_here_is_left_alone(house: House, stops: Stops) -> None:
    unknown, unreadable = [await publish_until(house, stops, "step 2") for _ in range(2)]
    newer = wrap(NothingRequested(refuse=False), event_id=unreadable.event_id, source="tests").text
    for saga, changed in ((unknown, {"orchestrator": "Unheard"}), (unreadable, {"envelope": newer})):
        await saga.delete()
        async with house.database.transaction() as connection:
            of_saga = update(saga_table).where(saga_table.c.event_id == saga.event_id)
            await connection.execute(of_saga.values(**changed))

    swept = await sweep(house)

    assert done(swept) == {"leave": 2}
    assert any("Unheard is unknown here" in finding.why for finding in swept.findings)
    assert any("cannot be read here" in finding.why for finding in swept.findings)


async def test_a_dry_run_reports_what_a_sweep_would_do_and_changes_nothing(idle: House, stops: Stops) -> None:
    async with idle.another_worker():
        terminated, deleted = [await publish_until(idle, stops, "step 2") for _ in range(2)]
        letter = await publish_until(idle, stops, "finish", LETTER)
        await terminated.terminate("why not")
        await letter.terminate()
        await deleted.delete()
    never = await publish(idle)
    await never.terminate()
    garbage = await idle.client.start_workflow("CoinsMove", "garbage", id=new_id(), task_queue=idle.task_queue)
    await garbage.terminate()
    for workflow_id in (terminated.workflow_id, letter.workflow_id, never.workflow_id, garbage.id):
        await is_visible(idle, workflow_id)
    before = [await rows(idle.database, table) for table in (saga_table, saga_meta)], await idle.steps()

    swept = await recovery_of(idle).sweep(dry_run=True)

    assert {(finding.action.value, finding.workflow_id) for finding in swept.findings} == {
        ("undo", terminated.workflow_id),
        ("resume", letter.workflow_id),
        ("resume", deleted.workflow_id),
        ("publish", never.workflow_id),
        ("keep", garbage.id),
    }
    assert any("why not" in finding.why for finding in swept.findings)
    assert any("past its pivot" in finding.why for finding in swept.findings)
    assert ([await rows(idle.database, table) for table in (saga_table, saga_meta)], await idle.steps()) == before
    assert await idle.dead_letters() == []
    assert not (await fate.status_of_execution(idle.client, never.workflow_id)).runs
    async with idle.another_worker():
        assert done(await sweep(idle)) == {"undo": 1, "resume": 2, "publish": 1, "keep": 1}
        phases = [(await published.ended()).phase for published in (terminated, letter, deleted, never)]
    assert phases == ["cancelled", "completed", "completed", "completed"]


async def test_sagas_that_are_terminated_reset_or_deleted_at_random_have_outcomes_after_a_sweep(
    house: House, stops: Stops
) -> None:
    seed = Random().randrange(2**32)
    random = Random(seed)
    actions = [action for action in ("terminate", "reset", "delete") for _ in range(8)]
    random.shuffle(actions)

    async def interrupt(action: str) -> tuple[str, Published]:
        saga = await publish_until(house, stops, random.choice(["step 2", "step 3", "finish"]), replace_coins(EVENT, 1))
        await getattr(saga, action)()
        return action, saga

    interrupted = await asyncio.gather(*(interrupt(action) for action in actions))

    swept = await sweep(house)

    ended = [(action, (await saga.ended()).phase) for action, saga in interrupted]
    expected = {"terminate": "cancelled", "reset": "completed", "delete": "completed"}
    assert [phase for _, phase in ended] == [expected[action] for action, _ in ended], f"seed {seed:#x}"
    assert done(swept) == {"undo": 8, "resume": 8}, f"seed {seed:#x}"
    holdings = await house.holdings()
    assert (holdings.boxes, holdings.notes) == ({"a": 84, "b": 16}, 16)
    assert len(await house.outbox()) == 24


def replace_coins(event: CoinsMoveRequested, coins: int) -> CoinsMoveRequested:
    """The same event with another number of coins."""
    return event.model_copy(update={"coins": coins})
