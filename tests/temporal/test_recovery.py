"""Recovery, on the real server and both databases: whatever befalls an execution, its saga has one outcome."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest
from temporalio.client import Client, ScheduleActionStartWorkflow, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.own_execution import ensure_own_execution
from orchestrator.envelope import wrap
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.recovery import RecoveryRefused
from orchestrator.store.schema import saga as saga_table
from orchestrator.store.schema import saga_meta
from orchestrator.store.steps import StoreSteps
from orchestrator.worker import fate, silent_sagas, sweeping
from orchestrator.worker.closed_runs import closed_abnormally
from orchestrator.worker.manager import Manager
from orchestrator.worker.recovery import Recovery
from orchestrator.worker.schedule import schedule_id
from orchestrator.worker.sweeping import Limits
from orchestrator.workflow.execution import raw_json
from orchestrator.workflow.recovery import Action, SagaRecovery, Sweep
from tests.cast import Script, refuses
from tests.house import CATALOG, House, eventually, new_id, open_house, rows
from tests.orchestrators import CoinsMoveRequested, LetterRequested, NothingRequested

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
LETTER = LetterRequested(source="a", coins=10)


class Stop:
    """Where the first driver of a saga waits, between two transactions, until the test lets it go on.

    A worker learns late that its execution was terminated, so it would drive the saga on meanwhile.
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()


@dataclass
class Stops:
    """Stops of single sagas: before `step 2`, `undo 1` or `finish`."""

    at: dict[tuple[str, str], Stop] = field(default_factory=dict[tuple[str, str], Stop])

    def before(self, what: str, event_id: str) -> Stop:
        """Stop a saga there, once."""
        return self.at.setdefault((event_id, what), Stop())

    async def come_to(self, what: str, event_id: str) -> None:
        """A saga is about to do that."""
        stop = self.at.get((event_id, what))
        if stop is not None and not stop.reached.is_set():
            stop.reached.set()
            await stop.opened.wait()

    def open_all(self) -> None:
        """Stop nobody any more."""
        for stop in self.at.values():
            stop.opened.set()
        self.at.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No grace time, unless a test says so."""
    monkeypatch.setenv("ORCHESTRATOR_RECOVERY_GRACE", "0")


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Generator[Stops]:
    """Lets a test stop sagas between their transactions."""
    stops = Stops()

    def stopping(name: str, what: Callable[[Any], str]) -> None:
        does = getattr(StoreSteps, name)

        async def do(self: StoreSteps, command: Any, *args: Any, **options: Any) -> Any:
            ref = command.saga if hasattr(command, "saga") else command.opening.saga
            await stops.come_to(what(command), ref.event_id)
            return await does(self, command, *args, **options)

        monkeypatch.setattr(StoreSteps, name, do)

    stopping("run", lambda command: f"step {command.number}")
    stopping("undo", lambda command: f"undo {command.number}")
    stopping("finish", lambda command: "finish")
    yield stops
    stops.open_all()


@dataclass(frozen=True)
class Published:
    """A saga's event and its execution."""

    house: House
    event_id: str
    workflow_id: str

    @property
    def handle(self) -> Any:
        """Its execution, whichever run."""
        return self.house.client.get_workflow_handle(self.workflow_id)

    async def terminate(self, reason: str | None = None) -> None:
        """As a person does it."""
        await self.handle.terminate(reason=reason)

    async def delete(self) -> None:
        """As a person does it; wait until it is gone."""
        await self.house.client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(
                namespace=self.house.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=self.workflow_id),
            )
        )

        async def gone() -> bool:
            return (await fate.fate_of(self.house.client, self.workflow_id)).run_id == ""

        await eventually(gone, "the execution is deleted")

    async def reset(self) -> None:
        """To its beginning."""
        [begun, *_] = [
            event.event_id
            async for event in self.handle.fetch_history_events()
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
        ]
        await self.house.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=self.house.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=self.workflow_id),
                reason="a test",
                workflow_task_finish_event_id=begun,
                request_id=str(uuid4()),
            )
        )

    async def row(self) -> Any:
        """The saga's row."""
        async with self.house.database.reading() as connection:
            found = await connection.execute(select(saga_table).where(saga_table.c.event_id == self.event_id))
            return found.first()

    async def ended(self) -> Any:
        """The saga's row, once it has an outcome."""

        async def has_ended() -> bool:
            row = await self.row()
            return row is not None and row.outcome is not None

        await eventually(has_ended, f"saga {self.workflow_id} has its outcome")
        return await self.row()

    async def closed(self) -> None:
        """Wait until its execution has ended."""

        async def has_closed() -> bool:
            return not (await fate.fate_of(self.house.client, self.workflow_id)).runs

        await eventually(has_closed, f"{self.workflow_id} closes")


async def publish(house: House, event: Any = EVENT, event_id: str | None = None) -> Published:
    """Publish an event."""
    [saga] = await house.bus.publish(event, event_id=event_id)
    return Published(house, saga.event_id, saga.workflow_id)


async def publish_until(house: House, stops: Stops, what: str, event: Any = EVENT) -> Published:
    """Publish an event, and wait until its saga is about to do something."""
    event_id = new_id()
    stop = stops.before(what, event_id)
    published = await publish(house, event, event_id)
    await stop.reached.wait()
    return published


def recovery_of(house: House, **limits: Any) -> Recovery:
    """Recovery with other limits than the worker's."""
    return Recovery(
        house.ready.client,
        house.database,
        house.catalog,
        task_queue=house.task_queue,
        limits=replace(Limits(grace=timedelta(0)), **limits),
    )


async def sweep(house: House, **limits: Any) -> Sweep:
    """One sweep, straight on."""
    return await recovery_of(house, **limits).sweep()


def done(swept: Sweep) -> dict[str, int]:
    """What a sweep did, without what it did not."""
    return {action.value: number for action, number in swept.counts.items() if number}


async def is_visible(house: House, workflow_id: str) -> None:
    """Wait until visibility knows that an execution was cut off."""

    async def known() -> bool:
        runs = await closed_abnormally(
            house.client, house.catalog.orchestrators, house.task_queue, since=None, until=datetime.now(UTC)
        )
        return workflow_id in {run.workflow_id for run in runs}

    await eventually(known, f"visibility knows of {workflow_id}")


async def test_a_terminated_saga_is_undone_and_says_so(house: House, stops: Stops) -> None:
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


async def test_a_saga_terminated_while_it_is_undone_is_undone_to_the_end(house: House, stops: Stops) -> None:
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


async def test_a_saga_that_was_reset_goes_on_by_itself_and_nothing_is_doubled(house: House, stops: Stops) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 3")
    await saga.reset()

    swept = await sweep(house)

    assert (await saga.ended()).phase == "completed"
    assert done(swept) == {}
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_deleted_saga_goes_on_where_it_stood(house: House, stops: Stops) -> None:
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 2")
    await saga.delete()

    swept = await sweep(house)

    assert done(swept) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)


@pytest.fixture
async def idle(database: Database, client: Client) -> AsyncGenerator[House]:
    """A house without a worker."""
    async with open_house(client, database, CATALOG, task_queue=f"idle-{uuid4()}", working=False) as made:
        yield made


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
    """Three pasted into one start: one is done, one under way, one was never looked at."""
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

    phases = [(await Published(house, one, f"CoinsMove/event/{one}").ended()).phase for one in ids]
    assert phases == ["completed", "cancelled", "completed"]
    assert done(swept) == {"undo": 1, "publish": 1}
    assert (await house.holdings()).boxes == {"a": 80, "b": 20}


async def test_a_saga_that_sleeps_is_recovered_as_soon_as_its_execution_is_terminated(
    house: House, stops: Stops
) -> None:
    saga = await publish_until(house, stops, "step 2")
    async with house.database.transaction() as connection:
        later = (await saga.row()).created_at + timedelta(days=1)
        await connection.execute(update(saga_table).values(next_at=later))
    swept = await sweep(house)
    assert swept.looked_at == 0

    await saga.terminate()
    await is_visible(house, saga.workflow_id)
    await sweep(house)

    assert (await saga.ended()).phase == "cancelled"


async def test_a_saga_whose_execution_completed_without_it_goes_on(house: House) -> None:
    """As after a database was restored from a backup."""
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


async def test_a_saga_that_was_silent_for_less_than_the_grace_time_is_left_alone(house: House, stops: Stops) -> None:
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

    assert [one.counts[Action.UNDO] for one in swept] == [2, 2, 1]
    assert [(await saga.ended()).phase for saga in dead] == ["cancelled"] * 5
    stops.open_all()
    assert [(await saga.ended()).phase for saga in live] == ["completed"] * 3


async def test_executions_are_looked_through_again_until_everything_in_them_is_settled(idle: House) -> None:
    sagas = [await publish(idle) for _ in range(3)]
    for saga in sagas:
        await saga.terminate()
        await is_visible(idle, saga.workflow_id)

    swept = [await sweep(idle, ceiling=2) for _ in range(2)]

    assert [one.counts[Action.PUBLISH] for one in swept] == [2, 1]
    assert [one.swept_until is None for one in swept] == [True, False]
    async with idle.another_worker():
        assert [(await saga.ended()).phase for saga in sagas] == ["completed"] * 3


async def test_what_fails_on_one_saga_stops_no_other_and_takes_no_ones_place(
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

    swept = [await sweep(house, ceiling=1) for _ in range(2)]

    assert [one.counts[Action.RESUME] for one in swept] == [1, 1]
    assert swept[0].counts[Action.FAIL] > 0
    assert [(await saga.ended()).phase for saga in sagas[2:]] == ["completed"] * 2
    monkeypatch.undo()
    await sweep(house)
    assert [(await saga.ended()).phase for saga in sagas] == ["completed"] * 4


async def test_a_saga_of_an_orchestrator_or_contract_that_is_not_known_here_is_left(house: House, stops: Stops) -> None:
    unknown, unreadable = [await publish_until(house, stops, "step 2") for _ in range(2)]
    newer = wrap(NothingRequested(refuse=False), event_id=unreadable.event_id, source="tests").text
    for saga, changed in ((unknown, {"orchestrator": "Unheard"}), (unreadable, {"envelope": newer})):
        await saga.delete()
        async with house.database.transaction() as connection:
            of_saga = update(saga_table).where(saga_table.c.event_id == saga.event_id)
            await connection.execute(of_saga.values(**changed))

    swept = await sweep(house)

    assert done(swept) == {"leave": 2}
    assert any("Unheard is known here" in finding.why for finding in swept.findings)
    assert any("cannot be read here" in finding.why for finding in swept.findings)


async def belongs_to(house: House, **values: str) -> None:
    """Say what the database belongs to."""
    async with house.database.transaction() as connection:
        await connection.execute(update(saga_meta).values(**values))


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
    with pytest.raises(WorkflowFailureError) as told:
        await scheduled.result()
    assert "belongs to" in str(told.value.cause.__cause__)
    assert (await saga.row()).drives == 1

    await recovery_of(house).adopt()
    assert done(await sweep(house)) == {"resume": 1}
    assert (await saga.ended()).phase == "completed"


async def test_a_dry_run_says_what_would_be_done_and_changes_nothing(idle: House, stops: Stops) -> None:
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
    for one in (terminated.workflow_id, letter.workflow_id, never.workflow_id, garbage.id):
        await is_visible(idle, one)
    before = [await rows(idle.database, table) for table in (saga_table, saga_meta)], await idle.steps()

    swept = await recovery_of(idle).sweep(dry_run=True)

    assert {(one.action.value, one.workflow_id) for one in swept.findings} == {
        ("undo", terminated.workflow_id),
        ("resume", letter.workflow_id),
        ("resume", deleted.workflow_id),
        ("publish", never.workflow_id),
        ("keep", garbage.id),
    }
    assert any("why not" in one.why for one in swept.findings)
    assert any("past its pivot" in one.why for one in swept.findings)
    assert ([await rows(idle.database, table) for table in (saga_table, saga_meta)], await idle.steps()) == before
    assert await idle.dead_letters() == []
    assert not (await fate.fate_of(idle.client, never.workflow_id)).runs
    async with idle.another_worker():
        assert done(await sweep(idle)) == {"undo": 1, "resume": 2, "publish": 1, "keep": 1}
        phases = [(await one.ended()).phase for one in (terminated, letter, deleted, never)]
    assert phases == ["cancelled", "completed", "completed", "completed"]


async def test_unreadable_messages_of_an_execution_that_was_cut_off_are_kept_once(house: House, stops: Stops) -> None:
    """One was kept by the execution itself, two it had not come to: one that came first, one that came later."""
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
    assert [letter.raw for letter in await house.dead_letters()] == [b'"kept before"']
    await pasted.terminate()
    await is_visible(house, pasted.id)

    swept = [await sweep(house) for _ in range(2)]

    letters = {letter.origin_position: letter for letter in await house.dead_letters()}
    assert [one.counts[Action.KEEP] for one in swept] == [3, 0]
    assert {position: letter.raw[:12] for position, letter in letters.items()} == {
        1: b'"came first"',
        2: b'"kept before',
        4: b'"came later"',
        5: b'"xxxxxxxxxxx',
    }
    assert letters[5].size == len(letters[5].raw)
    assert letters[4].code == "signal.unknown"
    assert {letter.origin_run_id for letter in letters.values()} == {
        pasted.result_run_id or pasted.first_execution_run_id
    }
    assert (await Published(house, event_id, f"CoinsMove/event/{event_id}").ended()).phase == "cancelled"


async def test_an_id_used_again_in_an_execution_that_was_cut_off_is_kept_and_the_first_counts(
    house: House, stops: Stops
) -> None:
    saga = await publish_until(house, stops, "step 2")
    other = CoinsMoveRequested(source="a", target="b", coins=11)
    for event in (other, EVENT):
        await saga.handle.signal("event", raw_json(wrap(event, event_id=saga.event_id, source="tests").text.encode()))
    await saga.terminate()
    await is_visible(house, saga.workflow_id)

    await sweep(house)

    assert [letter.code for letter in await house.dead_letters()] == ["event.id_reused"]
    assert (await saga.ended()).phase == "cancelled"


@dataclass
class Pause:
    """Stops the first who comes to a point of a sweep."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


def pause_at(point: str, monkeypatch: pytest.MonkeyPatch) -> Pause:
    """Stop the first sweep that comes to `before undo`, `after undo`, `before ensure` or `after ensure`."""
    pause = Pause()
    when, _, what = point.partition(" ")
    module: Any = silent_sagas if what == "undo" else sweeping
    name = "undo_if_still_owned" if what == "undo" else "ensure_own_execution"
    does: Callable[..., Awaitable[Any]] = getattr(module, name)

    async def paced(*args: Any, **options: Any) -> Any:
        if when == "before":
            await pause()
        result = await does(*args, **options)
        if when == "after":
            await pause()
        return result

    monkeypatch.setattr(module, name, paced)
    return pause


POINTS = ["before undo", "after undo", "before ensure", "after ensure"]


@pytest.mark.parametrize("point", POINTS)
async def test_two_sweeps_at_once_do_what_one_does(
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
async def test_a_recovery_that_is_terminated_in_the_middle_is_made_good_by_the_next(
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
    assert swept.looked_at == 1
    assert (row.phase, row.error_code) == ("cancelled", "saga.terminated")
    pause.opened.set()
    await saga.closed()
    assert await saga.row() == row
    assert await house.holdings() == before


async def test_a_saga_that_another_execution_has_taken_up_is_not_undone(
    house: House, stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep saw it terminated; before it decides, somebody publishes the event again."""
    before = await house.holdings()
    saga = await publish_until(house, stops, "step 2")
    await saga.terminate()
    pause = pause_at("before undo", monkeypatch)
    sweeping_on = asyncio.create_task(sweep(house))
    await pause.reached.wait()
    stop = stops.before("finish", saga.event_id)
    await publish(house, EVENT, saga.event_id)
    await stop.reached.wait()

    pause.opened.set()
    swept = await sweeping_on
    stops.open_all()

    assert done(swept) == {}
    assert (await saga.ended()).phase == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_saga_that_was_terminated_twice_is_undone_for_its_last_termination(house: House, stops: Stops) -> None:
    """The second execution was terminated before it came to the database, so the first still owns the saga."""
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


async def test_a_saga_that_was_published_again_and_runs_is_left_alone_though_its_owner_was_terminated(
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
    again = stops.before("step 1", event_id)
    saga = await publish(house, EVENT, event_id)
    await again.reached.wait()

    swept = await sweep(house)
    stops.open_all()

    assert (swept.alive, done(swept)) == (1, {})
    assert (await saga.ended()).phase == "completed"


async def test_an_owner_whose_workflow_id_another_execution_has_taken_is_followed_to_its_end(
    house: House, stops: Stops
) -> None:
    """Workflow ids of pasted events are a person's choice, and may be chosen again."""
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
    phases = [(await Published(house, one, f"CoinsMove/event/{one}").ended()).phase for one in (first, second)]
    assert phases == ["cancelled", "completed"]


async def test_a_worker_sets_the_schedule_up_and_it_recovers_by_itself(house: House, stops: Stops) -> None:
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


def manager_of(house: House, **settings: Any) -> Manager:
    """A manager with other settings."""
    return Manager(Settings(task_queue=house.task_queue, **settings), catalog=house.catalog)


async def test_the_schedule_is_kept_as_it_is_set_and_one_that_is_paused_stays_paused(idle: House) -> None:
    handle = idle.client.get_schedule_handle(schedule_id(idle.task_queue))

    async def interval() -> list[timedelta]:
        return [one.every for one in (await handle.describe()).schedule.spec.intervals]

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
    with pytest.raises(RPCError) as told:
        await handle.describe()
    assert told.value.status is RPCStatusCode.NOT_FOUND


async def test_a_worker_that_may_not_set_the_schedule_up_says_so_and_goes_on(
    idle: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refused(*args: Any, **options: Any) -> None:
        raise RPCError("no permission", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(Client, "create_schedule", refused)
    await belongs_to(idle, temporal_cluster_id="another")

    await manager_of(idle, recovery_interval=3600).schedule_recovery(idle.ready)

    mismatch, schedule = capsys.readouterr().err.splitlines()
    assert "belongs to" in mismatch
    assert "recover --adopt" in mismatch
    assert "no permission" in schedule
    assert "orchestrator recover" in schedule


async def test_terminated_reset_and_deleted_at_random_each_saga_has_its_outcome_after_a_sweep(
    house: House, stops: Stops
) -> None:
    seed = Random().randrange(2**32)
    random = Random(seed)
    fates = [which for which in ("terminate", "reset", "delete") for _ in range(8)]
    random.shuffle(fates)

    async def befall(which: str) -> tuple[str, Published]:
        saga = await publish_until(house, stops, random.choice(["step 2", "step 3", "finish"]), replace_coins(EVENT, 1))
        await getattr(saga, which)()
        return which, saga

    befallen = await asyncio.gather(*(befall(which) for which in fates))

    swept = await sweep(house)

    ended = [(which, (await saga.ended()).phase) for which, saga in befallen]
    wanted = {"terminate": "cancelled", "reset": "completed", "delete": "completed"}
    assert [phase for _, phase in ended] == [wanted[which] for which, _ in ended], f"seed {seed:#x}"
    assert done(swept) == {"undo": 8, "resume": 8}, f"seed {seed:#x}"
    holdings = await house.holdings()
    assert (holdings.boxes, holdings.notes) == ({"a": 84, "b": 16}, 16)
    assert len(await house.outbox()) == 24


def replace_coins(event: CoinsMoveRequested, coins: int) -> CoinsMoveRequested:
    """The same move of other coins."""
    return event.model_copy(update={"coins": coins})
