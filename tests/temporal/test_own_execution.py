"""A saga in its own execution, on the real server and on both databases."""

import asyncio
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import ActivityFailureError, Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from orchestrator import Contract, EventRejected, NotFinished, SagaCancelled, SagaFailed, Transaction
from orchestrator.client import SagaHandle
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import MarkStuckCommand
from orchestrator.protocol.messages.envelope import digest, wrap
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.own_execution import raw_json
from tests.cast import Gate, Script, fails, refuses, take
from tests.cast_events import (
    AtomicMoveRequested,
    CoinsMoveCompleted,
    CoinsMoveFailed,
    CoinsMoveRequested,
    ManyNotesRequested,
    NothingRequested,
    ParallelMoveRequested,
    TippedRequested,
)
from tests.house import House, eventually, new_id
from tests.orchestrators import CoinsMove, ManyNotes, Nothing, ParallelMove, Tipped

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


async def test_an_event_becomes_a_completed_saga(house: House) -> None:
    before, event_id = await house.holdings(), new_id()

    completed = await house.bus.execute(CoinsMove, EVENT, event_id=event_id)

    assert isinstance(completed, CoinsMoveCompleted)
    assert completed.coins == 10
    assert await house.holdings() == before.moved("a", "b", 10)
    [saga] = await house.sagas()
    assert (saga.phase, saga.drives) == ("completed", 1)
    assert saga.owner_workflow_id == f"CoinsMove/event/{event_id}"
    [sent] = await house.outbox()
    assert sent.event_id == saga.outcome_event_id


async def test_a_refused_saga_is_failed_with_its_reason_and_undone_in_reverse(house: House) -> None:
    before, event_id = await house.holdings(), new_id()
    Script.before["write_note"] = refuses("note.too_long")

    with pytest.raises(SagaFailed) as raised:
        await house.bus.execute(CoinsMove, EVENT, event_id=event_id)

    failure = raised.value.failure
    assert isinstance(failure, CoinsMoveFailed)
    assert (failure.error_code, failure.event_id) == ("note.too_long", event_id)
    assert failure.event == {"source": "a", "target": "b", "coins": 10}
    assert [step.compensation for step in failure.undone] == ["cast.take_out", "cast.give_back"]
    assert Script.runs == ["take", "put", "write_note", "take_out", "give_back"]
    assert await house.holdings() == before
    handle = house.client.get_workflow_handle(f"CoinsMove/event/{event_id}")
    description = await handle.describe()
    assert description.status is WorkflowExecutionStatus.FAILED
    with pytest.raises(WorkflowFailureError) as workflow_failure:
        await handle.result()
    assert isinstance(workflow_failure.value.cause, ApplicationError)
    assert workflow_failure.value.cause.type == "note.too_long"


class Missing(Contract):
    """Details of a refusal."""

    coins: int
    note: str = ""


@pytest.mark.parametrize("note", ["", "x" * 16_000], ids=["small", "too large for a local activity"])
async def test_a_refusals_details_reach_the_client(house: House, note: str) -> None:
    details = Missing(coins=3, note=note)
    Script.before["put"] = refuses("box.empty", details)

    with pytest.raises(SagaFailed) as raised:
        await house.bus.execute(CoinsMove, EVENT)

    assert raised.value.details == {"coins": 3, "note": note}
    assert raised.value.failure.details_as(Missing) == details
    assert Script.runs == ["take", "put", "give_back"]


async def test_search_attributes_show_the_event_id_the_outcome_and_the_error_code(house: House) -> None:
    event_id = new_id()
    Script.before["put"] = refuses("box.full")

    with pytest.raises(SagaFailed):
        await house.bus.execute(CoinsMove, EVENT, event_id=event_id)

    workflow_ids: list[str] = []

    async def is_found() -> bool:
        query = f'EventId="{event_id}" AND SagaStatus="failed" AND ErrorCode="box.full"'
        workflow_ids[:] = [execution.id async for execution in house.client.list_workflows(query)]
        return bool(workflow_ids)

    await eventually(is_found, "the execution is workflow_ids by its search attributes")
    assert workflow_ids == [f"CoinsMove/event/{event_id}"]


@pytest.mark.parametrize("step", ["take", "put", "write_note"])
async def test_a_step_that_keeps_failing_undoes_the_steps_before_it(
    house: House, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in house.catalog.operations.values():
        monkeypatch.setattr(operation, "deadline", timedelta(milliseconds=1))
    before = await house.holdings()
    Script.before[step] = fails()

    with pytest.raises(SagaFailed, match="the script fails for good") as raised:
        await house.bus.execute(CoinsMove, EVENT)

    assert raised.value.code == "operation.failed"
    assert Script.runs.count(step) == 3
    assert await house.holdings() == before


async def test_a_misuse_of_the_transaction_is_not_retried(house: House) -> None:
    async def commits(tx: Transaction) -> None:
        await tx.commit()

    before = await house.holdings()
    Script.after["put"] = commits

    with pytest.raises(SagaFailed, match="may not commit") as raised:
        await house.bus.execute(CoinsMove, EVENT)

    assert raised.value.code == "operation.failed"
    assert Script.runs.count("put") == 1
    assert await house.holdings() == before


async def test_a_step_that_fails_temporarily_is_retried(house: House) -> None:
    before = await house.holdings()
    Script.after["put"] = fails(times=2)

    await house.bus.execute(CoinsMove, EVENT)

    assert Script.runs == ["take", "put", "put", "put", "write_note"]
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_compensation_that_fails_temporarily_is_retried(house: House) -> None:
    before = await house.holdings()
    Script.before["write_note"] = refuses()
    Script.after["take_out"] = fails(times=2)

    with pytest.raises(SagaFailed):
        await house.bus.execute(CoinsMove, EVENT)

    assert Script.runs[-4:] == ["take_out", "take_out", "take_out", "give_back"]
    assert await house.holdings() == before


@pytest.mark.parametrize("refused", [False, True])
async def test_an_event_published_again_has_the_first_outcome_and_no_effect(house: House, refused: bool) -> None:
    event_id = new_id()
    if refused:
        Script.before["put"] = refuses()
    [first] = await house.bus.publish(EVENT, event_id=event_id)
    outcome = await first.outcome()
    Script.clear()
    after = await house.holdings()

    [again] = await house.bus.publish(EVENT, event_id=event_id)

    assert await again.outcome() == outcome
    assert again.is_repeat is not refused
    assert Script.runs == []
    assert await house.holdings() == after
    assert len(await house.outbox()) == 1


async def test_an_event_published_again_while_it_runs_is_dropped(house: House) -> None:
    before, event_id, gate = await house.holdings(), new_id(), Gate()
    Script.after["put"] = gate
    [first] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()

    repeats = [await house.bus.publish(EVENT, event_id=event_id) for _ in range(5)]
    gate.opened.set()

    outcome = await first.outcome()
    assert [await repeat.outcome() for [repeat] in repeats] == [outcome] * 5
    assert await house.holdings() == before.moved("a", "b", 10)
    assert await house.dead_letters() == []


@pytest.mark.parametrize("when", ["completed", "failed", "running"])
async def test_an_id_reused_for_other_content_is_rejected_and_changes_nothing(house: House, when: str) -> None:
    event_id, gate = new_id(), Gate()
    different = CoinsMoveRequested(source="a", target="b", coins=11)
    if when == "failed":
        Script.before["put"] = refuses()
    if when == "running":
        Script.after["put"] = gate
    [first] = await house.bus.publish(EVENT, event_id=event_id)
    if when == "running":
        await gate.reached.wait()
    else:
        await first.outcome()
    Script.clear()

    with pytest.raises(EventRejected, match="already used for different content") as raised:
        await asyncio.gather(house.bus.execute(CoinsMove, different, event_id=event_id), open_soon(gate))

    assert raised.value.code == "event.id_reused"
    outcome = await first.outcome()
    assert (await house.holdings()).boxes == ({"a": 100, "b": 0} if when == "failed" else {"a": 90, "b": 10})
    assert len(await house.outbox()) == 1
    letters = await house.dead_letters()
    assert [letter.code for letter in letters] == ([] if when == "completed" else ["event.id_reused"]), outcome


async def open_soon(gate: Gate) -> None:
    """Open the gate after other tasks have started."""
    await asyncio.sleep(0)
    gate.opened.set()


async def test_a_cancelled_execution_is_undone_and_shown_as_cancelled(house: House) -> None:
    before, event_id, gate = await house.holdings(), new_id(), Gate()
    Script.after["put"] = gate
    [saga] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()
    handle = house.client.get_workflow_handle(saga.workflow_id)

    await handle.cancel()
    await handle.cancel()
    gate.opened.set()

    with pytest.raises(SagaCancelled) as raised:
        await saga.result()
    assert raised.value.code == "saga.cancelled"
    with pytest.raises(SagaCancelled):
        await house.bus.saga(CoinsMove, event_id).result()
    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert await house.holdings() == before
    assert [row.phase for row in await house.sagas()] == ["cancelled"]


async def test_a_terminated_saga_continues_when_its_event_is_published_again(house: House) -> None:
    before, event_id, gate = await house.holdings(), new_id(), Gate()
    Script.before["put"] = gate
    [saga] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()
    await house.client.get_workflow_handle(saga.workflow_id).terminate()
    with pytest.raises(NotFinished):  # termination is no outcome; a client that waits longer gets the saga's
        await saga.outcome(timeout=timedelta(milliseconds=100))
    Script.clear()
    gate.opened.set()

    await house.bus.execute(CoinsMove, EVENT, event_id=event_id)

    assert await house.holdings() == before.moved("a", "b", 10)
    assert [row.drives for row in await house.sagas()] == [2]


async def test_a_saga_without_steps_has_an_outcome(house: House) -> None:
    await house.bus.execute(Nothing, NothingRequested(refuse=False))
    with pytest.raises(SagaFailed, match=r"nothing\.refused"):
        await house.bus.execute(Nothing, NothingRequested(refuse=True))

    assert sorted(row.phase for row in await house.sagas()) == ["completed", "failed"]


async def test_parallel_steps_run_and_are_all_undone(house: House) -> None:
    before = await house.holdings()
    move = ParallelMoveRequested(source="a", target="b", coins=5)
    await house.bus.execute(ParallelMove, move)
    Script.before["take"] = refuses()

    with pytest.raises(SagaFailed):
        await house.bus.execute(ParallelMove, move)

    holdings = await house.holdings()
    assert holdings.boxes == {"a": before.boxes["a"] - 5, "b": 5}


async def test_two_executions_of_one_event_have_one_outcome(house: House) -> None:
    """The bus starts one; the other is started by hand with another workflow id, and cancelled while it runs."""
    before, event_id, gate = await house.holdings(), new_id(), Gate()
    Script.after["put"] = gate
    [first] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()
    envelope = wrap(EVENT, event_id=event_id, source="tests")
    by_hand = await house.client.start_workflow(
        "CoinsMove", args=[raw_json(envelope.text.encode())], id=f"by-hand/{event_id}", task_queue=house.task_queue
    )
    await by_hand.cancel()

    gate.opened.set()
    outcome = await first.outcome()
    with contextlib.suppress(WorkflowFailureError):
        await by_hand.result()

    holdings = await house.holdings()
    assert holdings == (before.moved("a", "b", 10) if outcome.phase.value == "completed" else before)
    assert [row.phase for row in await house.sagas()] == [outcome.phase.value]
    assert len(await house.outbox()) == 1


async def test_fifty_concurrent_sagas_each_have_their_own_outcome(house: House) -> None:
    before = await house.holdings()
    move = CoinsMoveRequested(source="a", target="b", coins=1)

    results = await asyncio.gather(*(house.bus.execute(CoinsMove, move) for _ in range(50)))

    assert len({completed.note for completed in results}) == 50
    holdings = await house.holdings()
    assert holdings.boxes == {"a": before.boxes["a"] - 50, "b": 50}
    assert holdings.notes == 50


async def test_an_operation_refuses_to_run_outside_a_saga(house: House) -> None:
    for arguments in ([{"name": "a", "coins": 1}], [], ["a", 1]):
        with pytest.raises(ActivityFailureError) as raised:
            await house.client.execute_activity(
                take.name,
                args=arguments,
                id=new_id(),
                task_queue=house.task_queue,
                start_to_close_timeout=timedelta(seconds=10),
            )
        assert "runs only as a step of a saga" in str(raised.value.cause)
    assert (await house.holdings()).boxes["a"] == 100


async def stuck_saga(house: House, event_id: str) -> SagaHandle[Any]:
    """Return a saga whose first step differs from its record, as after a careless deployment."""
    gate = Gate()
    Script.before["put"] = gate
    [saga] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()
    await house.client.get_workflow_handle(saga.workflow_id).terminate()
    await set_recorded(house, '{"coins":11,"name":"a"}')
    Script.clear()
    gate.opened.set()
    [saga] = await house.bus.publish(EVENT, event_id=event_id)

    async def is_stuck() -> bool:
        return [row.stuck_step for row in await house.sagas()] == [1]

    await eventually(is_stuck, "the saga is shown as stuck")
    return saga


async def set_recorded(house: House, arguments: str) -> None:
    """Change the recorded arguments of step 1."""
    new_digest = digest(f"cast.take{arguments}")
    async with house.database.transaction() as connection:
        changed = update(saga_step).where(saga_step.c.number == 1).values(arguments=arguments, digest=new_digest)
        await connection.execute(changed)


async def test_a_retry_drives_a_stuck_saga_again(house: House) -> None:
    before, event_id = await house.holdings(), new_id()
    saga = await stuck_saga(house, event_id)
    assert "recorded cast.take(coins=11" in (await house.sagas())[0].stuck_error

    await set_recorded(house, '{"coins":10,"name":"a"}')
    await house.client.get_workflow_handle(saga.workflow_id).signal("retry")

    await saga.result()
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_retry_that_arrives_before_the_execution_waits_for_it_takes_effect(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who sees the row marked as stuck may be faster than the execution that marks it."""
    event_id = new_id()
    marked, released = asyncio.Event(), asyncio.Event()
    mark = StoreSteps.mark_stuck

    async def mark_and_wait(self: StoreSteps, command: MarkStuckCommand) -> None:
        await mark(self, command)
        marked.set()
        await released.wait()

    monkeypatch.setattr(StoreSteps, "mark_stuck", mark_and_wait)
    saga = await stuck_saga(house, event_id)
    await marked.wait()
    await set_recorded(house, '{"coins":10,"name":"a"}')

    await house.client.get_workflow_handle(saga.workflow_id).signal("retry")
    released.set()

    await saga.result(timeout=timedelta(seconds=30))
    assert (await house.holdings()).boxes == {"a": 90, "b": 10}


async def test_a_stuck_saga_can_be_cancelled(house: House) -> None:
    saga = await stuck_saga(house, new_id())

    await set_recorded(house, '{"coins":10,"name":"a"}')
    await house.client.get_workflow_handle(saga.workflow_id).cancel()

    with pytest.raises(SagaCancelled):
        await saga.result()
    assert (await house.holdings()).boxes == {"a": 100, "b": 0}


async def test_a_retry_carries_events_over_and_makes_the_rest_dead_letters(house: House) -> None:
    saga = await stuck_saga(house, new_id())
    handle = house.client.get_workflow_handle(saga.workflow_id)
    another = wrap(CoinsMoveRequested(source="a", target="b", coins=1), event_id=new_id(), source="tests")
    for large in range(4):
        await handle.signal("event", f"{large}" * 1_500_000)
    await handle.signal("evnet", raw_json(another.text.encode()))
    await handle.signal("event", raw_json(another.text.encode()))

    await set_recorded(house, '{"coins":10,"name":"a"}')
    await handle.signal("retry")

    await saga.result()
    codes = [letter.code for letter in await house.dead_letters()]
    assert codes == ["event.too_large"] * 4 + ["signal.unknown"]
    assert sorted(row.phase for row in await house.sagas()) == ["completed", "completed"]
    assert (await house.holdings()).boxes == {"a": 89, "b": 11}


async def test_an_older_worker_leaves_sagas_of_a_new_orchestrator_to_newer_workers(house: House) -> None:
    """During a rolling deployment, the older worker has the operations but not the orchestrator."""
    older = Catalog.of(orchestrators=[Nothing], operations=house.catalog.operations.values())
    before = await house.holdings()
    manager = Manager(house.manager.settings, catalog=older)
    address = house.client.service_client.config.target_host
    second_client = await Client.connect(address, data_converter=worker_data_converter)
    async with manager.worker(Ready(second_client, house.database, older)):
        await asyncio.gather(
            *(house.bus.execute(CoinsMove, CoinsMoveRequested(source="a", target="b", coins=1)) for _ in range(4))
        )

    assert (await house.holdings()).boxes == {"a": before.boxes["a"] - 4, "b": 4}
    assert {row.phase for row in await house.sagas()} == {"completed"}


async def test_a_large_event_with_many_parallel_first_steps_completes(house: House) -> None:
    await house.bus.execute(ManyNotes, ManyNotesRequested(text="x" * 240_000, notes=20))

    assert (await house.holdings()).notes == 20


async def test_the_same_event_sent_under_a_newer_contract_is_a_repeat(house: House) -> None:
    """The first message lacks a field that has a default; the repeat contains it."""
    event_id = new_id()
    message = json.loads(wrap(TippedRequested(name="a"), event_id=event_id, source="tests").text)
    del message["data"]["tip"]
    await house.client.execute_workflow("Tipped", message, id=f"Tipped/event/{event_id}", task_queue=house.task_queue)

    await house.bus.execute(Tipped, TippedRequested(name="a"), event_id=event_id)

    assert (await house.holdings()).boxes["a"] == 90


async def test_a_wait_that_times_out_does_not_stop_the_saga(house: House) -> None:
    event_id, gate = new_id(), Gate()
    Script.after["put"] = gate

    with pytest.raises(NotFinished, match="it continues"):
        await house.bus.execute(CoinsMove, EVENT, event_id=event_id, timeout=timedelta(milliseconds=50))
    gate.opened.set()

    await house.bus.execute(CoinsMove, EVENT, event_id=event_id)


async def test_following_reports_each_step_with_its_number_and_name(house: House) -> None:
    Script.before["write_note"] = refuses("note.too_long")
    [saga] = await house.bus.publish(EVENT)

    reported = [(progress.what, progress.state) async for progress in saga.follow()]

    assert reported == [
        ("step 1: cast.take", "done"),
        ("step 2: cast.put", "done"),
        ("step 3: cast.write_note", "refused"),
        ("begin the undo: note.too_long", "done"),
        ("undo step 2: cast.take_out", "done"),
        ("undo step 1: cast.give_back", "done"),
        ("finish: undone", "done"),
    ]


async def test_following_an_atomic_step_names_its_operations(house: House) -> None:
    before = await house.holdings()
    Script.before["write_note"] = refuses("note.too_long")
    [saga] = await house.bus.publish(AtomicMoveRequested(source="a", target="b", coins=10))

    reported = [(progress.what, progress.state) async for progress in saga.follow()]

    assert reported == [
        ("step 1: cast.count, cast.take, cast.put", "done"),
        ("step 2: cast.write_note", "refused"),
        ("begin the undo: note.too_long", "done"),
        ("undo step 1: cast.count, cast.take, cast.put", "done"),
        ("finish: undone", "done"),
    ]
    assert await house.holdings() == before
