"""Every way in which a saga ends: with exactly one outcome, on the real server and on both databases.

`test_recovery` covers executions that are gone, and `tests.external` covers external steps.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import RetryPolicy

from orchestrator import EventRejected, Refused, SagaCancelled, SagaFailed, Transaction
from orchestrator.client import SagaHandle
from orchestrator.protocol.commands import STUCK_AFTER
from orchestrator.store.core.schema import saga as saga_table
from orchestrator.worker.activities import FEWEST_ATTEMPTS
from orchestrator.workflow import local_first
from orchestrator.workflow.local_first import LOCAL
from tests.cast import Act, Gate, Plan, Script, fails, refuses
from tests.cast_events import (
    ApprovalRequested,
    Approved,
    BulkyRequested,
    CoinsMoveRequested,
    FlawedRequested,
    HurryRequested,
    NapRequested,
    ParcelRequested,
)
from tests.house import House, eventually, new_id
from tests.orchestrators import Approval, Bulky, CoinsMove, Hurry, Nap, Parcel

MOVE = CoinsMoveRequested(source="a", target="b", coins=10)
BEFORE = {"a": 100, "b": 0}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the backoff between two attempts."""
    for policy in ("_STEP_RETRIES", "_ENDLESS_RETRIES"):
        short = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0)
        monkeypatch.setattr(f"orchestrator.workflow.steps.{policy}", short)


async def until(house: House, event_id: str, condition: Callable[[Any], bool], what: str) -> None:
    """Wait until a saga's row meets a condition."""

    async def is_so() -> bool:
        return any(row.event_id == event_id and condition(row) for row in await house.sagas())

    await eventually(is_so, what)


async def until_pending(
    house: House, saga: SagaHandle[Any], activity: str, *, attempt: int = 1, has_failed: bool = False
) -> None:
    """Wait until a regular activity is at an attempt; with `has_failed`, also until a failure is recorded."""

    async def is_so() -> bool:
        described = await house.client.get_workflow_handle(saga.workflow_id).describe()
        return any(
            pending.activity_type.name == activity
            and pending.attempt >= attempt
            and (not has_failed or pending.HasField("last_failure"))
            for pending in described.raw_description.pending_activities
        )

    await eventually(is_so, f"{activity} is at attempt {attempt}")


async def terminate(house: House, saga: SagaHandle[Any]) -> None:
    """Terminate a saga's execution."""
    await house.client.get_workflow_handle(saga.workflow_id).terminate("by a test")


async def cancel(house: House, saga: SagaHandle[Any], times: int = 1) -> None:
    """Request the cancellation of a saga as the Web UI and `temporal workflow cancel` do."""
    for _ in range(times):
        await house.client.get_workflow_handle(saga.workflow_id).cancel()


async def assert_cancelled(house: House, saga: SagaHandle[Any]) -> None:
    """Check that the saga is undone, has one outcome event, and is shown as cancelled."""
    with pytest.raises(SagaCancelled) as raised:
        await saga.result(timeout=timedelta(seconds=60))
    assert raised.value.code == "saga.cancelled"
    assert (await house.holdings()).boxes == BEFORE
    [row] = await house.sagas()
    assert (row.phase, row.stuck_step) == ("cancelled", None)
    assert len(await house.outbox()) == 1
    description = await house.client.get_workflow_handle(saga.workflow_id).describe()
    assert description.status is WorkflowExecutionStatus.CANCELED


class TestLocalFirst:
    """A step runs as a local activity first and then as a regular one; only the history shows the difference."""

    @pytest.fixture(autouse=True)
    def unhurried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give local attempts more time, so that a slow machine does not make them regular."""
        monkeypatch.setattr(local_first, "LOCAL", timedelta(seconds=60))

    async def activities(self, house: House, saga: SagaHandle[Any]) -> tuple[list[str], list[str]]:
        """Return the summaries of the activities that ended locally and of those that were scheduled."""
        local: list[str] = []
        regular: list[str] = []
        async for event in house.client.get_workflow_handle(saga.workflow_id).fetch_history_events():
            summary = event.user_metadata.summary.data.decode().strip('"')
            if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED:
                local.append(summary)
            elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                regular.append(summary)
        return local, regular

    async def test_a_saga_without_failures_schedules_no_activity(self, house: House) -> None:
        [saga] = await house.bus.publish(MOVE)

        await saga.result()

        assert await self.activities(house, saga) == (["step 1", "step 2", "step 3", "completed"], [])

    async def test_a_step_that_fails_three_times_goes_on_as_a_regular_activity(self, house: House) -> None:
        Script.before["put"] = fails(times=3)
        [saga] = await house.bus.publish(MOVE)

        await saga.result()

        assert await self.activities(house, saga) == (["step 1", "step 2", "step 3", "completed"], ["step 2"])
        assert Script.runs.count("put") == 4
        assert (await house.holdings()).boxes == {"a": 90, "b": 10}

    async def test_a_step_that_outlasts_its_local_attempt_is_done_once(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local_first, "LOCAL", LOCAL)
        gate = Gate(locally=True)
        Script.after["put"] = gate
        [saga] = await house.bus.publish(MOVE)
        await until_pending(house, saga, "cast.put")

        gate.opened.set()
        await saga.result()

        assert (await house.holdings()).boxes == {"a": 90, "b": 10}
        assert "step 2" in (await self.activities(house, saga))[1]

    async def test_an_undo_is_local_first_too(self, house: House) -> None:
        Script.before["write_note"] = refuses()
        [saga] = await house.bus.publish(MOVE)

        with pytest.raises(SagaFailed):
            await saga.result()

        local, regular = await self.activities(house, saga)
        assert local == ["step 1", "step 2", "step 3", "box.refused", "undo step 2", "undo step 1", "undone"]
        assert regular == []

    @pytest.mark.parametrize(
        ("times", "size", "parallel"),
        [(30, 200_000, False), (40, 200_000, True), (250, 10, False), (120, 10_000, True)],
    )
    async def test_the_size_of_a_workflow_task_is_bounded(
        self, house: House, times: int, size: int, parallel: bool
    ) -> None:
        """The server rejects a larger task than 4 MiB on every attempt."""
        event = BulkyRequested(times=times, size=size, parallel=parallel)

        completed = await house.bus.execute(Bulky, event, timeout=timedelta(seconds=120))

        assert completed.letters == times * size
        assert len(Script.runs) == times


class TestCancelled:
    """A saga is cancelled at any moment, through Temporal."""

    async def test_in_a_regular_step(self, house: House) -> None:
        gate = Gate()
        Script.after["put"] = gate
        [saga] = await house.bus.publish(MOVE)
        await gate.reached.wait()

        await cancel(house, saga, times=2)
        gate.opened.set()

        await assert_cancelled(house, saga)

    @pytest.mark.parametrize("where", ["before", "after"])
    async def test_in_a_local_step_that_becomes_a_regular_one(self, house: House, where: str) -> None:
        gate = Gate(locally=True)
        getattr(Script, where)["put"] = gate
        [saga] = await house.bus.publish(MOVE)
        await gate.reached.wait()

        await cancel(house, saga)

        await assert_cancelled(house, saga)
        gate.opened.set()

    async def test_before_a_worker_started_it(self, database: Any, client: Any) -> None:
        from tests.house import CATALOG, open_house

        async with open_house(client, database, CATALOG, task_queue=f"idle-{new_id()}", working=False) as house:
            [saga] = await house.bus.publish(MOVE)
            await cancel(house, saga)

            async with house.another_worker():
                await assert_cancelled(house, saga)

        assert Script.runs == []

    async def test_on_the_37th_attempt(self, house: House) -> None:
        Script.before["put"] = fails()
        [saga] = await house.bus.publish(MOVE)
        await until_pending(house, saga, "cast.put", attempt=37)

        await cancel(house, saga)

        await assert_cancelled(house, saga)
        assert Script.runs.count("put") >= 37

    async def test_during_the_undo(self, house: House) -> None:
        gate = Gate()
        Script.before["write_note"] = refuses()
        Script.after["take_out"] = gate
        [saga] = await house.bus.publish(MOVE)
        await gate.reached.wait()

        await cancel(house, saga, times=2)
        gate.opened.set()

        with pytest.raises(SagaFailed, match=r"refused by the script"):
            await saga.result()
        assert (await house.holdings()).boxes == BEFORE
        assert [row.phase for row in await house.sagas()] == ["failed"]

    async def test_while_it_sleeps(self, house: House) -> None:
        event_id = new_id()
        [saga] = await house.bus.publish(NapRequested(coins=10, seconds=3600), event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "the saga sleeps")

        await cancel(house, saga)

        await assert_cancelled(house, saga)
        assert [(step.kind, step.state) for step in await house.steps()] == [
            ("operation", "undone"),
            ("sleep", "attempting"),
        ]

    async def test_while_it_waits_for_an_event(self, house: House) -> None:
        event_id = new_id()
        [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "the saga waits")

        await cancel(house, saga)

        await assert_cancelled(house, saga)

    async def test_while_its_undo_is_stuck(self, house: House) -> None:
        event_id = new_id()
        Script.before |= {"write_note": refuses(), "take_out": fails()}
        [saga] = await house.bus.publish(MOVE, event_id=event_id)
        await until(house, event_id, lambda row: row.stuck_step == 2, "the saga is stuck")

        await cancel(house, saga, times=2)
        del Script.before["take_out"]
        await house.client.get_workflow_handle(saga.workflow_id).signal("retry")

        with pytest.raises(SagaFailed):
            await saga.result()
        assert (await house.holdings()).boxes == BEFORE

    async def test_with_a_bug_in_handle(self, house: House) -> None:
        """A bug alone undoes nothing, but a person can still cancel the saga."""
        event_id = new_id()
        Plan.has_bug = True
        [saga] = await house.bus.publish(FlawedRequested(coins=10), event_id=event_id)
        handle = house.client.get_workflow_handle(saga.workflow_id)

        async def fails_for_its_bug() -> bool:
            described = await handle.describe()
            return described.raw_description.pending_workflow_task.attempt > 1

        await eventually(fails_for_its_bug, "the workflow task fails")
        assert (await house.holdings()).boxes["a"] == 90
        await cancel(house, saga)

        await assert_cancelled(house, saga)

    async def test_past_the_pivot_it_completes(self, house: House) -> None:
        gate = Gate()
        Script.before["deliver"] = gate
        [saga] = await house.bus.publish(ParcelRequested(source="a", coins=10))
        await gate.reached.wait()

        await cancel(house, saga, times=2)
        gate.opened.set()

        await saga.result(timeout=timedelta(seconds=60))
        holdings = await house.holdings()
        assert (holdings.boxes["a"], holdings.notes) == (90, 1)


async def test_a_bug_in_handle_waits_for_its_fix(house: House) -> None:
    Plan.has_bug = True
    [saga] = await house.bus.publish(FlawedRequested(coins=10))

    async def fails_for_its_bug() -> bool:
        described = await house.client.get_workflow_handle(saga.workflow_id).describe()
        return described.raw_description.pending_workflow_task.attempt > 1

    await eventually(fails_for_its_bug, "the workflow task fails")
    Plan.has_bug = False

    await saga.result(timeout=timedelta(seconds=60))
    assert (await house.holdings()).boxes["a"] == 90


class TestDeadline:
    """The deadline of a whole saga."""

    async def test_a_saga_past_its_deadline_is_undone(self, house: House) -> None:
        gate = Gate()
        Script.after["put"] = gate
        [saga] = await house.bus.publish(HurryRequested(coins=10))

        with pytest.raises(SagaFailed) as raised:
            await saga.result(timeout=timedelta(seconds=60))
        gate.opened.set()

        assert raised.value.code == "saga.deadline_exceeded"
        assert "0:00:02" in raised.value.message
        assert (await house.holdings()).boxes == BEFORE

    async def test_past_the_pivot_no_deadline_applies(self, house: House) -> None:
        gate = Gate()
        Script.before["deliver"] = gate
        [saga] = await house.bus.publish(HurryRequested(coins=10, pivot=True))

        async def is_past_its_deadline() -> bool:
            history = house.client.get_workflow_handle(saga.workflow_id).fetch_history_events()
            return any([event.event_type == EventType.EVENT_TYPE_TIMER_FIRED async for event in history])

        await eventually(is_past_its_deadline, "the timer fires")
        gate.opened.set()

        await saga.result(timeout=timedelta(seconds=60))
        assert (await house.holdings()).boxes["a"] == 90

    async def test_a_deadline_that_passed_while_nothing_drove_the_saga_applies(self, house: House) -> None:
        event_id, gate = new_id(), Gate()
        Script.before["put"] = gate
        [saga] = await house.bus.publish(HurryRequested(coins=10), event_id=event_id)
        await gate.reached.wait()
        await terminate(house, saga)
        gate.opened.set()
        Script.clear()
        async with house.database.transaction() as connection:
            long_ago = saga_table.c.created_at
            [row] = await house.sagas()
            await connection.execute(update(saga_table).values({long_ago: row.created_at - timedelta(hours=1)}))

        with pytest.raises(SagaFailed) as raised:
            await house.bus.execute(Hurry, HurryRequested(coins=10), event_id=event_id)

        assert raised.value.code == "saga.deadline_exceeded"
        assert (await house.holdings()).boxes == BEFORE

    async def test_a_saga_that_meets_its_deadline_completes(self, house: House) -> None:
        await house.bus.execute(Hurry, HurryRequested(coins=10))

        assert (await house.holdings()).boxes == {"a": 90, "b": 10}


class TestSleep:
    """A sleep is durable and ends at the same moment in any execution."""

    async def test_a_sleep_ends(self, house: House) -> None:
        await house.bus.execute(Nap, NapRequested(coins=10, seconds=0.05))

        assert (await house.holdings()).boxes == {"a": 90, "b": 10}
        assert [(step.kind, step.state) for step in await house.steps()] == [
            ("operation", "done"),
            ("sleep", "done"),
            ("operation", "done"),
        ]
        [row] = await house.sagas()
        assert row.next_at is None

    async def test_another_execution_sleeps_until_the_same_moment(self, house: House) -> None:
        event_id, event = new_id(), NapRequested(coins=10, seconds=3600)
        [saga] = await house.bus.publish(event, event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "the saga sleeps")
        [row] = await house.sagas()
        await terminate(house, saga)

        [again] = await house.bus.publish(event, event_id=event_id)
        await until(house, event_id, lambda row: row.drives == 2, "another execution drives the saga")

        async def sleeps() -> bool:
            history = house.client.get_workflow_handle(again.workflow_id).fetch_history_events()
            return any([event.event_type == EventType.EVENT_TYPE_TIMER_STARTED async for event in history])

        await eventually(sleeps, "the other execution sleeps")
        assert [saga.next_at for saga in await house.sagas()] == [row.next_at]
        await terminate(house, again)


class TestWaitFor:
    """Waiting for an event that is sent to the saga."""

    async def publish(self, house: House, event_id: str, **fields: Any) -> SagaHandle[Any]:
        """Publish a saga and wait until it waits."""
        [saga] = await house.bus.publish(ApprovalRequested(coins=10, **fields), event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "the saga waits")
        return saga

    async def test_the_first_event_that_matches_ends_the_wait(self, house: House) -> None:
        event_id = new_id()
        saga = await self.publish(house, event_id)

        await house.bus.send(Approved(coins=9, by="nobody"), to=Approval, triggering_event_id=event_id)
        await house.bus.send(Approved(coins=10, by="olena"), to=Approval, triggering_event_id=event_id, event_id="yes")
        await house.bus.send(Approved(coins=10, by="olena"), to=Approval, triggering_event_id=event_id, event_id="yes")

        assert (await saga.result()).by == "olena"
        assert (await house.holdings()).boxes == {"a": 90, "b": 10}
        letters = await house.dead_letters()
        assert [letter.code for letter in letters] == ["event.not_awaited"]
        assert b"nobody" in letters[0].raw

    async def test_an_event_that_arrived_before_the_wait_counts(self, house: House) -> None:
        event_id, gate = new_id(), Gate()
        Script.before["take"] = gate
        [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id=event_id)
        await gate.reached.wait()

        await house.bus.send(Approved(coins=10, by="early"), to=Approval, triggering_event_id=event_id)
        gate.opened.set()

        assert (await saga.result()).by == "early"

    async def test_a_wait_that_times_out_returns_none_to_handle(self, house: House) -> None:
        with pytest.raises(SagaFailed) as raised:
            await house.bus.execute(Approval, ApprovalRequested(coins=10, wait_seconds=0.05))

        assert raised.value.code == "approval.missing"
        assert (await house.holdings()).boxes == BEFORE

    async def test_another_execution_gets_the_same_event_and_a_repeat_of_it_is_ignored(self, house: House) -> None:
        event_id = new_id()
        saga = await self.publish(house, event_id)
        Script.before["put"] = fails()
        await house.bus.send(
            Approved(coins=10, by="first"), to=Approval, triggering_event_id=event_id, event_id="first"
        )
        await until_pending(house, saga, "cast.put")
        await terminate(house, saga)

        [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id=event_id)
        await until_pending(house, saga, "cast.put")
        await house.bus.send(
            Approved(coins=10, by="first"), to=Approval, triggering_event_id=event_id, event_id="first"
        )
        Script.clear()

        assert (await saga.result()).by == "first"
        assert await house.dead_letters() == []

    async def test_an_event_of_a_type_that_is_not_awaited_is_rejected(self, house: House) -> None:
        with pytest.raises(EventRejected, match="it waits for APPROVED") as raised:
            await house.bus.send(MOVE, to=Approval, triggering_event_id="any")
        assert raised.value.code == "event.not_awaited"

    async def test_sending_to_a_saga_that_does_not_exist_is_rejected(self, house: House) -> None:
        with pytest.raises(EventRejected, match="it has ended, or was never started") as raised:
            await house.bus.send(Approved(coins=1, by="late"), to=Approval, triggering_event_id=new_id())
        assert raised.value.code == "saga.not_running"


class TestPastThePivot:
    """Past the pivot nothing is undone: a failing step is retried, shown as stuck, and may be skipped by a person."""

    async def test_a_refusal_is_retried_like_a_failure(self, house: House) -> None:
        refusals = [4]

        async def refuse_a_while(tx: Transaction) -> None:
            refusals[0] -= 1
            if refusals[0] > 0:
                raise Refused("deliver.closed", "closed today")

        Script.before["deliver"] = refuse_a_while

        await house.bus.execute(Parcel, ParcelRequested(source="a", coins=10))

        assert Script.runs.count("deliver") == 4
        holdings = await house.holdings()
        assert (holdings.boxes["a"], holdings.notes) == (90, 1)

    @pytest.mark.parametrize("fault", [fails(), refuses("deliver.closed")], ids=["fails", "refuses"])
    async def test_a_failing_step_is_shown_as_stuck_and_ends_once_it_succeeds(self, house: House, fault: Act) -> None:
        event_id = new_id()
        Script.before["deliver"] = fault
        [saga] = await house.bus.publish(ParcelRequested(source="a", coins=10), event_id=event_id)
        await until(house, event_id, lambda row: row.stuck_step == 3, "the saga is shown as stuck")
        assert [(step.number, step.state) for step in await house.steps()] == [
            (1, "done"),
            (2, "done"),
            (3, "attempting"),
        ]
        assert Script.runs.count("deliver") >= STUCK_AFTER

        Script.clear()
        await saga.result(timeout=timedelta(seconds=60))

        [row] = await house.sagas()
        assert (row.phase, row.stuck_step) == ("completed", None)
        assert [step.state for step in await house.steps()] == ["done", "done", "done"]
        assert (await house.holdings()).notes == 1

    async def test_a_retry_does_not_wait_for_the_next_attempt(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hourly = RetryPolicy(initial_interval=timedelta(hours=1))
        monkeypatch.setattr("orchestrator.workflow.steps._ENDLESS_RETRIES", hourly)
        event_id = new_id()
        Script.before["deliver"] = fails()
        [saga] = await house.bus.publish(ParcelRequested(source="a", coins=10), event_id=event_id)
        await until_pending(house, saga, "cast.deliver", attempt=2, has_failed=True)
        await until(house, event_id, lambda row: row.stuck_step == 3, "the saga is shown as stuck")
        Script.clear()

        await house.client.get_workflow_handle(saga.workflow_id).signal("retry")

        await saga.result(timeout=timedelta(seconds=60))

    async def test_a_refusal_by_handle_makes_the_saga_stuck(self, house: House) -> None:
        event_id = new_id()
        await house.bus.publish(ParcelRequested(source="a", coins=10, refuse=True), event_id=event_id)

        await until(house, event_id, lambda row: row.stuck_step == 2, "the saga is shown as stuck")

        [row] = await house.sagas()
        assert row.phase == "forward"
        assert "parcel.refused: asked to refuse after the pivot" in row.stuck_error

    async def test_a_terminated_saga_is_resumed_and_completes(self, house: House) -> None:
        event_id, event, gate = new_id(), ParcelRequested(source="a", coins=10), Gate()
        Script.before["deliver"] = gate
        [saga] = await house.bus.publish(event, event_id=event_id)
        await gate.reached.wait()
        await terminate(house, saga)
        gate.opened.set()
        Script.clear()

        await house.bus.execute(Parcel, event, event_id=event_id)

        assert (await house.holdings()).notes == 1


class TestStuckUndo:
    """A compensation that keeps failing."""

    async def test_it_is_shown_as_stuck_after_a_few_attempts_and_a_retry_takes_effect_at_once(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hourly = RetryPolicy(initial_interval=timedelta(hours=1))
        monkeypatch.setattr("orchestrator.workflow.steps._ENDLESS_RETRIES", hourly)
        event_id = new_id()
        Script.before |= {"write_note": refuses(), "take_out": fails()}
        [saga] = await house.bus.publish(MOVE, event_id=event_id)
        await until(house, event_id, lambda row: row.stuck_step == 2, "the saga is shown as stuck")
        handle = house.client.get_workflow_handle(saga.workflow_id)

        async def is_found() -> bool:
            query = f'EventId="{event_id}" AND SagaStatus="stuck"'
            return [execution.id async for execution in house.client.list_workflows(query)] == [saga.workflow_id]

        await eventually(is_found, "the search attribute says stuck")
        [row] = await house.sagas()
        assert "the script fails for good" in row.stuck_error
        await until_pending(house, saga, "cast.take_out", has_failed=True)
        assert Script.runs.count("take_out") == STUCK_AFTER + 1
        del Script.before["take_out"]

        await handle.signal("retry")

        with pytest.raises(SagaFailed):
            await saga.result(timeout=timedelta(seconds=60))
        assert (await house.holdings()).boxes == BEFORE
        [row] = await house.sagas()
        assert (row.phase, row.stuck_step) == ("failed", None)

    async def test_a_saga_terminated_during_its_undo_is_undone_once(self, house: House) -> None:
        event_id, gate = new_id(), Gate()
        Script.before["write_note"] = refuses()
        Script.before["give_back"] = gate
        [saga] = await house.bus.publish(MOVE, event_id=event_id)
        await gate.reached.wait()
        await terminate(house, saga)
        gate.opened.set()

        with pytest.raises(SagaFailed):
            await house.bus.execute(CoinsMove, MOVE, event_id=event_id)

        assert (await house.holdings()).boxes == BEFORE
        assert [step.state for step in await house.steps()] == ["undone", "undone", "refused"]


async def test_a_step_that_keeps_failing_is_given_up_after_its_deadline_and_a_few_attempts(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in house.catalog.operations.values():
        monkeypatch.setattr(operation, "deadline", timedelta(microseconds=1))
    Script.before["put"] = fails()

    with pytest.raises(SagaFailed) as raised:
        await house.bus.execute(CoinsMove, MOVE)

    assert raised.value.code == "operation.failed"
    assert Script.runs.count("put") == FEWEST_ATTEMPTS
    assert (await house.holdings()).boxes == BEFORE
