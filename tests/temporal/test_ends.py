"""However a saga ends: one outcome, on the real server and both databases.

What recovery does about executions that are gone is in `test_recovery`; external steps are in `tests.external`.
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
    """A test need not wait as long between two attempts as the world does."""
    for policy in ("_STEP_RETRIES", "_ENDLESS_RETRIES"):
        at_once = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0)
        monkeypatch.setattr(f"orchestrator.workflow.steps.{policy}", at_once)


async def until(house: House, event_id: str, true: Callable[[Any], bool], what: str) -> None:
    """Wait until the saga's row is as wanted."""

    async def is_so() -> bool:
        return any(row.event_id == event_id and true(row) for row in await house.sagas())

    await eventually(is_so, what)


async def until_pending(
    house: House, saga: SagaHandle[Any], activity: str, *, attempt: int = 1, heard: bool = False
) -> None:
    """Wait until a regular activity is under way, in a certain attempt; `heard`: it has failed before."""

    async def is_so() -> bool:
        described = await house.client.get_workflow_handle(saga.workflow_id).describe()
        return any(
            pending.activity_type.name == activity
            and pending.attempt >= attempt
            and (not heard or pending.HasField("last_failure"))
            for pending in described.raw_description.pending_activities
        )

    await eventually(is_so, f"{activity} is tried for the {attempt}th time")


async def terminated(house: House, saga: SagaHandle[Any]) -> None:
    """Terminate a saga's execution."""
    await house.client.get_workflow_handle(saga.workflow_id).terminate("by a test")


async def cancelled(house: House, saga: SagaHandle[Any], times: int = 1) -> None:
    """Ask for a saga's cancel, as the Web UI and `temporal workflow cancel` do."""
    for _ in range(times):
        await house.client.get_workflow_handle(saga.workflow_id).cancel()


async def assert_cancelled(house: House, saga: SagaHandle[Any]) -> None:
    """Undone, told once, and shown as cancelled."""
    with pytest.raises(SagaCancelled) as told:
        await saga.result(timeout=timedelta(seconds=60))
    assert told.value.code == "saga.cancelled"
    assert (await house.holdings()).boxes == BEFORE
    [row] = await house.sagas()
    assert (row.phase, row.stuck_step) == ("cancelled", None)
    assert len(await house.outbox()) == 1
    description = await house.client.get_workflow_handle(saga.workflow_id).describe()
    assert description.status is WorkflowExecutionStatus.CANCELED


class TestLocalFirst:
    """Steps run as local activities, and go on as regular ones; nobody but the history can tell."""

    @pytest.fixture(autouse=True)
    def unhurried(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """However slow the machine is: a local attempt has time."""
        if "longer" not in request.node.name:
            monkeypatch.setattr("orchestrator.workflow.local_first.LOCAL", timedelta(seconds=60))

    async def activities(self, house: House, saga: SagaHandle[Any]) -> tuple[list[str], list[str]]:
        """Summaries of what ended locally, and of what was scheduled."""
        local: list[str] = []
        regular: list[str] = []
        async for event in house.client.get_workflow_handle(saga.workflow_id).fetch_history_events():
            summary = event.user_metadata.summary.data.decode().strip('"')
            if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED:
                local.append(summary)
            elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                regular.append(summary)
        return local, regular

    async def test_a_saga_to_which_nothing_happens_schedules_nothing(self, house: House) -> None:
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

    async def test_a_step_that_takes_longer_than_a_local_attempt_may_is_done_once(self, house: House) -> None:
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
    async def test_what_one_workflow_task_carries_is_bounded(
        self, house: House, times: int, size: int, parallel: bool
    ) -> None:
        """Over 4 MiB the server would refuse the task for ever."""
        event = BulkyRequested(times=times, size=size, parallel=parallel)

        completed = await house.bus.execute(Bulky, event, timeout=timedelta(seconds=120))

        assert completed.letters == times * size
        assert len(Script.runs) == times


class TestCancelled:
    """At any moment, by whatever asks Temporal for it."""

    async def test_in_a_regular_step(self, house: House) -> None:
        gate = Gate()
        Script.after["put"] = gate
        [saga] = await house.bus.publish(MOVE)
        await gate.reached.wait()

        await cancelled(house, saga, times=2)
        gate.opened.set()

        await assert_cancelled(house, saga)

    @pytest.mark.parametrize("where", ["before", "after"])
    async def test_in_a_local_step_that_goes_on_as_a_regular_one(self, house: House, where: str) -> None:
        gate = Gate(locally=True)
        getattr(Script, where)["put"] = gate
        [saga] = await house.bus.publish(MOVE)
        await gate.reached.wait()

        await cancelled(house, saga)

        await assert_cancelled(house, saga)
        gate.opened.set()

    async def test_before_any_worker_took_it(self, database: Any, client: Any) -> None:
        from tests.house import CATALOG, open_house

        async with open_house(client, database, CATALOG, task_queue=f"idle-{new_id()}", working=False) as house:
            [saga] = await house.bus.publish(MOVE)
            await cancelled(house, saga)

            async with house.another_worker():
                await assert_cancelled(house, saga)

        assert Script.runs == []

    async def test_on_the_37th_try(self, house: House) -> None:
        Script.before["put"] = fails()
        [saga] = await house.bus.publish(MOVE)
        await until_pending(house, saga, "cast.put", attempt=37)

        await cancelled(house, saga)

        await assert_cancelled(house, saga)
        assert Script.runs.count("put") >= 37

    async def test_during_the_undo(self, house: House) -> None:
        gate = Gate()
        Script.before["write_note"] = refuses()
        Script.after["take_out"] = gate
        [saga] = await house.bus.publish(MOVE)
        await gate.reached.wait()

        await cancelled(house, saga, times=2)
        gate.opened.set()

        with pytest.raises(SagaFailed, match=r"refused by the script"):
            await saga.result()
        assert (await house.holdings()).boxes == BEFORE
        assert [row.phase for row in await house.sagas()] == ["failed"]

    async def test_while_it_sleeps(self, house: House) -> None:
        event_id = new_id()
        [saga] = await house.bus.publish(NapRequested(coins=10, seconds=3600), event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "it sleeps")

        await cancelled(house, saga)

        await assert_cancelled(house, saga)
        assert [(step.kind, step.state) for step in await house.steps()] == [
            ("operation", "undone"),
            ("sleep", "attempting"),
        ]

    async def test_while_it_waits_for_an_event(self, house: House) -> None:
        event_id = new_id()
        [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "it waits")

        await cancelled(house, saga)

        await assert_cancelled(house, saga)

    async def test_while_its_undo_is_stuck(self, house: House) -> None:
        event_id = new_id()
        Script.before |= {"write_note": refuses(), "take_out": fails()}
        [saga] = await house.bus.publish(MOVE, event_id=event_id)
        await until(house, event_id, lambda row: row.stuck_step == 2, "it is stuck")

        await cancelled(house, saga, times=2)
        del Script.before["take_out"]
        await house.client.get_workflow_handle(saga.workflow_id).signal("retry")

        with pytest.raises(SagaFailed):
            await saga.result()
        assert (await house.holdings()).boxes == BEFORE

    async def test_with_a_bug_in_handle(self, house: House) -> None:
        """Nothing is undone for a bug; a person may say so all the same."""
        event_id = new_id()
        Plan.has_bug = True
        [saga] = await house.bus.publish(FlawedRequested(coins=10), event_id=event_id)
        handle = house.client.get_workflow_handle(saga.workflow_id)

        async def fails_for_its_bug() -> bool:
            described = await handle.describe()
            return described.raw_description.pending_workflow_task.attempt > 1

        await eventually(fails_for_its_bug, "its workflow task fails")
        assert (await house.holdings()).boxes["a"] == 90
        await cancelled(house, saga)

        await assert_cancelled(house, saga)

    async def test_past_the_pivot_it_goes_on_to_the_end(self, house: House) -> None:
        gate = Gate()
        Script.before["deliver"] = gate
        [saga] = await house.bus.publish(ParcelRequested(source="a", coins=10))
        await gate.reached.wait()

        await cancelled(house, saga, times=2)
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

    await eventually(fails_for_its_bug, "its workflow task fails")
    Plan.has_bug = False

    await saga.result(timeout=timedelta(seconds=60))
    assert (await house.holdings()).boxes["a"] == 90


class TestDeadline:
    """Of a whole saga."""

    async def test_it_is_undone(self, house: House) -> None:
        gate = Gate()
        Script.after["put"] = gate
        [saga] = await house.bus.publish(HurryRequested(coins=10))

        with pytest.raises(SagaFailed) as told:
            await saga.result(timeout=timedelta(seconds=60))
        gate.opened.set()

        assert told.value.code == "saga.deadline_exceeded"
        assert "0:00:02" in told.value.message
        assert (await house.holdings()).boxes == BEFORE

    async def test_past_the_pivot_none_counts(self, house: House) -> None:
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

    async def test_one_that_passed_while_nobody_drove_counts(self, house: House) -> None:
        event_id, gate = new_id(), Gate()
        Script.before["put"] = gate
        [saga] = await house.bus.publish(HurryRequested(coins=10), event_id=event_id)
        await gate.reached.wait()
        await terminated(house, saga)
        gate.opened.set()
        Script.clear()
        async with house.database.transaction() as connection:
            long_ago = saga_table.c.created_at
            [row] = await house.sagas()
            await connection.execute(update(saga_table).values({long_ago: row.created_at - timedelta(hours=1)}))

        with pytest.raises(SagaFailed) as told:
            await house.bus.execute(Hurry, HurryRequested(coins=10), event_id=event_id)

        assert told.value.code == "saga.deadline_exceeded"
        assert (await house.holdings()).boxes == BEFORE

    async def test_a_saga_that_is_in_time_is_left_alone(self, house: House) -> None:
        await house.bus.execute(Hurry, HurryRequested(coins=10))

        assert (await house.holdings()).boxes == {"a": 90, "b": 10}


class TestSleep:
    """Durable, and the same moment whoever drives."""

    async def test_it_ends(self, house: House) -> None:
        await house.bus.execute(Nap, NapRequested(coins=10, seconds=0.05))

        assert (await house.holdings()).boxes == {"a": 90, "b": 10}
        assert [(step.kind, step.state) for step in await house.steps()] == [
            ("operation", "done"),
            ("sleep", "done"),
            ("operation", "done"),
        ]
        [row] = await house.sagas()
        assert row.next_at is None

    async def test_another_execution_sleeps_to_the_same_moment(self, house: House) -> None:
        event_id, event = new_id(), NapRequested(coins=10, seconds=3600)
        [saga] = await house.bus.publish(event, event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "it sleeps")
        [row] = await house.sagas()
        await terminated(house, saga)

        [again] = await house.bus.publish(event, event_id=event_id)
        await until(house, event_id, lambda row: row.drives == 2, "another execution drives")

        async def sleeps() -> bool:
            history = house.client.get_workflow_handle(again.workflow_id).fetch_history_events()
            return any([event.event_type == EventType.EVENT_TYPE_TIMER_STARTED async for event in history])

        await eventually(sleeps, "the other execution sleeps")
        assert [saga.next_at for saga in await house.sagas()] == [row.next_at]
        await terminated(house, again)


class TestWaitFor:
    """An event that is sent to a saga."""

    async def publish(self, house: House, event_id: str, **fields: Any) -> SagaHandle[Any]:
        """A saga that waits."""
        [saga] = await house.bus.publish(ApprovalRequested(coins=10, **fields), event_id=event_id)
        await until(house, event_id, lambda row: row.next_at is not None, "it waits")
        return saga

    async def test_it_goes_on_with_the_first_that_matches(self, house: House) -> None:
        event_id = new_id()
        saga = await self.publish(house, event_id)

        await house.bus.send(Approved(coins=9, by="nobody"), to=Approval, triggering_event_id=event_id)
        await house.bus.send(Approved(coins=10, by="olena"), to=Approval, triggering_event_id=event_id, event_id="yes")
        await house.bus.send(Approved(coins=10, by="olena"), to=Approval, triggering_event_id=event_id, event_id="yes")

        assert (await saga.result()).by == "olena"
        assert (await house.holdings()).boxes == {"a": 90, "b": 10}
        kept = await house.dead_letters()
        assert [letter.code for letter in kept] == ["event.not_awaited"]
        assert b"nobody" in kept[0].raw

    async def test_one_that_came_before_it_waited_counts(self, house: House) -> None:
        event_id, gate = new_id(), Gate()
        Script.before["take"] = gate
        [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id=event_id)
        await gate.reached.wait()

        await house.bus.send(Approved(coins=10, by="early"), to=Approval, triggering_event_id=event_id)
        gate.opened.set()

        assert (await saga.result()).by == "early"

    async def test_when_none_comes_in_time_handle_is_told(self, house: House) -> None:
        with pytest.raises(SagaFailed) as told:
            await house.bus.execute(Approval, ApprovalRequested(coins=10, wait_seconds=0.05))

        assert told.value.code == "approval.missing"
        assert (await house.holdings()).boxes == BEFORE

    async def test_what_came_is_the_same_in_another_execution_and_one_that_comes_again_is_no_news(
        self, house: House
    ) -> None:
        event_id = new_id()
        saga = await self.publish(house, event_id)
        Script.before["put"] = fails()
        await house.bus.send(
            Approved(coins=10, by="first"), to=Approval, triggering_event_id=event_id, event_id="first"
        )
        await until_pending(house, saga, "cast.put")
        await terminated(house, saga)

        [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id=event_id)
        await until_pending(house, saga, "cast.put")
        await house.bus.send(
            Approved(coins=10, by="first"), to=Approval, triggering_event_id=event_id, event_id="first"
        )
        Script.clear()

        assert (await saga.result()).by == "first"
        assert await house.dead_letters() == []

    async def test_an_event_it_does_not_wait_for_is_refused(self, house: House) -> None:
        with pytest.raises(EventRejected, match="it waits for APPROVED") as told:
            await house.bus.send(MOVE, to=Approval, triggering_event_id="any")
        assert told.value.code == "event.not_awaited"

    async def test_a_saga_that_is_not_there_is_told(self, house: House) -> None:
        with pytest.raises(EventRejected, match="it has ended, or was never started") as told:
            await house.bus.send(Approved(coins=1, by="late"), to=Approval, triggering_event_id=new_id())
        assert told.value.code == "saga.not_running"


class TestPastThePivot:
    """Nothing is undone there: what fails is tried until it is done, shown, and skipped by a person."""

    async def test_a_refusal_is_a_fault_and_is_tried_again(self, house: House) -> None:
        left = [4]

        async def refuse_a_while(tx: Transaction) -> None:
            left[0] -= 1
            if left[0] > 0:
                raise Refused("deliver.closed", "closed today")

        Script.before["deliver"] = refuse_a_while

        await house.bus.execute(Parcel, ParcelRequested(source="a", coins=10))

        assert Script.runs.count("deliver") == 4
        holdings = await house.holdings()
        assert (holdings.boxes["a"], holdings.notes) == (90, 1)

    @pytest.mark.parametrize("fault", [fails(), refuses("deliver.closed")], ids=["fails", "refuses"])
    async def test_it_shows_as_stuck_and_goes_on_when_it_can(self, house: House, fault: Act) -> None:
        event_id = new_id()
        Script.before["deliver"] = fault
        [saga] = await house.bus.publish(ParcelRequested(source="a", coins=10), event_id=event_id)
        await until(house, event_id, lambda row: row.stuck_step == 3, "it shows as stuck")
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
        await until_pending(house, saga, "cast.deliver", attempt=2, heard=True)
        await until(house, event_id, lambda row: row.stuck_step == 3, "it shows as stuck")
        Script.clear()

        await house.client.get_workflow_handle(saga.workflow_id).signal("retry")

        await saga.result(timeout=timedelta(seconds=60))

    async def test_handle_that_says_no_is_stuck(self, house: House) -> None:
        event_id = new_id()
        await house.bus.publish(ParcelRequested(source="a", coins=10, refuse=True), event_id=event_id)

        await until(house, event_id, lambda row: row.stuck_step == 2, "it shows as stuck")

        [row] = await house.sagas()
        assert row.phase == "forward"
        assert "parcel.refused: asked to refuse after the pivot" in row.stuck_error

    async def test_terminated_it_is_resumed_to_its_end(self, house: House) -> None:
        event_id, event, gate = new_id(), ParcelRequested(source="a", coins=10), Gate()
        Script.before["deliver"] = gate
        [saga] = await house.bus.publish(event, event_id=event_id)
        await gate.reached.wait()
        await terminated(house, saga)
        gate.opened.set()
        Script.clear()

        await house.bus.execute(Parcel, event, event_id=event_id)

        assert (await house.holdings()).notes == 1


class TestStuckUndo:
    """A compensation that fails."""

    async def test_it_shows_everywhere_within_a_few_attempts_and_a_retry_is_heard_at_once(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hourly = RetryPolicy(initial_interval=timedelta(hours=1))
        monkeypatch.setattr("orchestrator.workflow.steps._ENDLESS_RETRIES", hourly)
        event_id = new_id()
        Script.before |= {"write_note": refuses(), "take_out": fails()}
        [saga] = await house.bus.publish(MOVE, event_id=event_id)
        await until(house, event_id, lambda row: row.stuck_step == 2, "it shows as stuck")
        handle = house.client.get_workflow_handle(saga.workflow_id)

        async def is_found() -> bool:
            query = f'EventId="{event_id}" AND SagaStatus="stuck"'
            return [execution.id async for execution in house.client.list_workflows(query)] == [saga.workflow_id]

        await eventually(is_found, "the search attribute says stuck")
        [row] = await house.sagas()
        assert "the script fails for good" in row.stuck_error
        await until_pending(house, saga, "cast.take_out", heard=True)
        assert Script.runs.count("take_out") == STUCK_AFTER + 1
        del Script.before["take_out"]

        await handle.signal("retry")

        with pytest.raises(SagaFailed):
            await saga.result(timeout=timedelta(seconds=60))
        assert (await house.holdings()).boxes == BEFORE
        [row] = await house.sagas()
        assert (row.phase, row.stuck_step) == ("failed", None)

    async def test_terminated_during_the_undo_it_is_undone_once(self, house: House) -> None:
        event_id, gate = new_id(), Gate()
        Script.before["write_note"] = refuses()
        Script.before["give_back"] = gate
        [saga] = await house.bus.publish(MOVE, event_id=event_id)
        await gate.reached.wait()
        await terminated(house, saga)
        gate.opened.set()

        with pytest.raises(SagaFailed):
            await house.bus.execute(CoinsMove, MOVE, event_id=event_id)

        assert (await house.holdings()).boxes == BEFORE
        assert [step.state for step in await house.steps()] == ["undone", "undone", "refused"]


async def test_a_step_that_fails_for_good_is_given_up_after_its_deadline_and_a_few_attempts(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for operation in house.catalog.operations.values():
        monkeypatch.setattr(operation, "deadline", timedelta(microseconds=1))
    Script.before["put"] = fails()

    with pytest.raises(SagaFailed) as told:
        await house.bus.execute(CoinsMove, MOVE)

    assert told.value.code == "operation.failed"
    assert Script.runs.count("put") == FEWEST_ATTEMPTS
    assert (await house.holdings()).boxes == BEFORE
