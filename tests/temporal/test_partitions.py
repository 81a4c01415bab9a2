"""Sagas in partitions, on the real server and on both databases."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RawValue
from temporalio.service import RPCError

from orchestrator import Contract, EventBus, EventRejected, Refused, SagaFailed, SagaUnknown, Transaction
from orchestrator.client import handle as client_handle
from orchestrator.protocol.commands import FinishCommand
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.protocol.names import partition_for
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_lock
from orchestrator.store.saga.finish import finish_saga
from orchestrator.store.saga.intervention import cancel_saga
from orchestrator.store.saga.opening import open_sagas
from orchestrator.worker.partition import wave
from orchestrator.worker.recovery import sweep as recovery
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.sweep import Recovery
from orchestrator.worker.waking import SignalWaker
from orchestrator.workflow import partition
from orchestrator.workflow.own_execution import raw_json
from tests.cast import Plan, Script
from tests.house import House, eventually, new_id, open_house, opening_of, rows, update
from tests.swarm import CATALOG, EVENT, Swarm, SwarmCompleted, SwarmRequested


class Seven(Contract):
    """Details of a refusal."""

    coins: int


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    async with open_house(client, database, CATALOG, task_queue=f"swarm-{uuid4()}") as opened:
        yield opened


async def test_an_event_becomes_a_completed_saga(house: House) -> None:
    before, event_id = await house.holdings(), new_id()

    completed = await house.bus.execute(Swarm, EVENT, event_id=event_id)

    assert completed == SwarmCompleted(coins=1)
    assert await house.holdings() == before.moved("a", "b", 1)
    [saga] = await house.sagas()
    assert (saga.phase, saga.drives) == ("completed", 1)
    assert saga.owner_workflow_id in ("Swarm/partition/1-of-2", "Swarm/partition/2-of-2")
    [sent] = await house.outbox()
    assert sent.event_id == saga.outcome_event_id


async def test_a_client_without_the_database_gets_outcomes_through_a_worker_with_few_queries(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_handle, "TAKE_TIMEOUT", 0.1)
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue)
    lookups = f"WorkflowType = 'SagaLookups' AND TaskQueue = '{house.task_queue}'"
    await house.bus.execute(Swarm, EVENT)

    handles = [handle for [handle] in await bus.publish_many([EVENT] * 30)]
    results = await asyncio.gather(*(handle.result(timeout=timedelta(seconds=20)) for handle in handles))
    again = await bus.saga(Swarm, handles[0].event_id).result(timeout=timedelta(seconds=20))
    with pytest.raises(SagaUnknown):
        await house.bus.saga(Swarm, new_id()).result()

    assert [*results, again] == [SwarmCompleted(coins=1)] * 31

    async def are_visible() -> bool:
        return (await house.client.count_workflows(lookups)).count > 0

    await eventually(are_visible, "the visibility store lists the lookups")
    assert (await house.client.count_workflows(lookups)).count <= 10, "one lookup serves all clients that wait"


async def test_a_refused_saga_is_failed_and_undone_among_others(house: House) -> None:
    before = await house.holdings()
    await house.bus.publish_many([EVENT] * 10)
    bad = new_id()

    async def refuse(tx: Transaction) -> None:
        if tx.event_id == bad:
            raise Refused("box.seven", "the test refuses this event", Seven(coins=7))

    Script.before["put"] = refuse

    with pytest.raises(SagaFailed) as raised:
        await house.bus.execute(Swarm, EVENT, event_id=bad)

    assert (raised.value.failure.error_code, [step.compensation for step in raised.value.failure.undone]) == (
        "box.seven",
        ["cast.give_back"],
    )
    assert raised.value.failure.details_as(Seven) == Seven(coins=7)
    await eventually(lambda: _all_ended(house, 11), "all sagas have ended")
    assert (await house.holdings()).boxes["a"] == before.boxes["a"] - 10


async def test_events_published_together_need_few_signals_and_few_history_events(house: House) -> None:
    handles = await house.bus.publish_many([EVENT] * 80)

    outcomes = await asyncio.gather(*(handle.outcome() for [handle] in handles))

    assert {outcome.phase.value for outcome in outcomes} == {"completed"}
    assert (await house.holdings()).boxes == {"a": 20, "b": 80}
    events = 0
    for workflow_id in {handle.workflow_id for [handle] in handles}:
        history = await house.client.get_workflow_handle(workflow_id).fetch_history()
        events += len(history.events)
    assert events <= 80


async def test_the_history_contains_nothing_of_handle(house: House) -> None:
    [handle] = await house.bus.publish(EVENT)
    await handle.outcome()

    history = await house.client.get_workflow_handle(handle.workflow_id).fetch_history()

    kinds = {EventType.Name(event.event_type) for event in history.events}
    assert not any("ACTIVITY" in kind for kind in kinds)
    assert "cast.take" not in history.to_json()


async def test_an_event_published_twice_is_handled_once(house: House) -> None:
    event_id = new_id()
    first = await house.bus.execute(Swarm, EVENT, event_id=event_id)

    second = await house.bus.execute(Swarm, EVENT, event_id=event_id)
    repeats = await house.bus.publish_many([EVENT] * 5, event_ids=[event_id] * 5)

    assert first == second
    assert {(await handle.outcome()).phase.value for [handle] in repeats} == {"completed"}
    await house.bus.execute(Swarm, EVENT)  # completes after the repeats
    assert (await house.holdings()).boxes["a"] == 98


async def test_an_id_reused_for_other_content_is_rejected_and_becomes_a_dead_letter(house: House) -> None:
    event_id = new_id()
    await house.bus.execute(Swarm, EVENT, event_id=event_id)
    different = SwarmRequested(source="a", target="b", coins=2)

    with pytest.raises(EventRejected, match=r"event\.id_reused"):
        await house.bus.execute(Swarm, different, event_id=event_id)

    await eventually(lambda: _letters(house, 1), "the dead letter is stored")
    [letter] = await house.dead_letters()
    assert (letter.code, letter.origin_workflow_id) == ("event.id_reused", (await house.sagas())[0].owner_workflow_id)


@pytest.mark.parametrize(
    "garbage", [[], [b""], [b"{"], [b'{"hello": 1}', b"\xff"]], ids=["none", "empty", "json", "two"]
)
async def test_garbage_becomes_dead_letters_and_affects_no_saga(house: House, garbage: list[bytes]) -> None:
    [handle] = await house.bus.publish(EVENT)
    partition = house.client.get_workflow_handle(handle.workflow_id)
    arguments: list[RawValue] = [raw_json(raw) for raw in garbage]

    await partition.signal("event", args=arguments)
    await partition.signal("evnet", raw_json(b"{}"))

    await eventually(lambda: _letters(house, max(len(garbage), 1) + 1), "every message is stored as a dead letter")
    assert "signal.unknown" in {letter.code for letter in await house.dead_letters()}
    handles = await house.bus.publish_many([EVENT] * 10)
    assert {(await handle.outcome()).phase.value for [handle] in handles} == {"completed"}


async def test_updates_are_handled_like_signals_and_a_run_ends_before_the_server_refuses_them(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "_RUN_UPDATES", 3)
    [first] = await house.bus.publish(EVENT)
    running, ids = house.client.get_workflow_handle(first.workflow_id), [new_id() for _ in range(8)]

    for event_id in ids:
        envelope = raw_json(wrap(EVENT, event_id=event_id, source="tests").text.encode())
        assert await update(running, "event", envelope) == {"accepted": 1}
        assert await update(running, "whatever", raw_json(b"{")) == {"accepted": 1}

    await eventually(lambda: _all_ended(house, 9), "all sagas have ended")
    await eventually(lambda: _letters(house, 8), "every message is stored as a dead letter")
    assert {(letter.source, letter.code) for letter in await house.dead_letters()} == {("update", "event.not_json")}
    assert {saga.phase for saga in await house.sagas()} == {"completed"}
    assert (await running.describe()).run_id != first.run_id


async def test_a_saga_that_sleeps_gets_its_own_execution(house: House) -> None:
    event_id = new_id()
    napping = SwarmRequested(source="a", target="b", coins=1, nap=True)

    completed = await house.bus.execute(Swarm, napping, event_id=event_id)

    assert completed.coins == 1
    own = await house.client.get_workflow_handle(f"Swarm/event/{event_id}").describe()
    assert own.status in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.RUNNING)
    assert (await house.holdings()).boxes == {"a": 99, "b": 1}
    assert Script.runs == ["take", "put", "write_note"]


async def test_a_bug_in_handle_shows_in_the_sagas_own_execution_and_a_fix_finishes_it(house: House) -> None:
    Plan.has_bug, event_id = True, new_id()
    buggy = SwarmRequested(source="a", target="b", coins=1, bug=True)

    handles = await house.bus.publish_many([EVENT, buggy, EVENT], event_ids=[new_id(), event_id, new_id()])

    for handle in (handles[0][0], handles[2][0]):
        assert (await handle.outcome()).phase.value == "completed"
    own = house.client.get_workflow_handle(f"Swarm/event/{event_id}")
    await eventually(lambda: _runs(own), "the saga has its own execution")
    Plan.has_bug = False
    await own.signal("retry")
    assert (await handles[1][0].outcome()).phase.value == "completed"
    assert (await house.holdings()).boxes == {"a": 97, "b": 3}


async def test_a_saga_cancelled_among_fifty_is_undone_and_the_others_complete(house: House) -> None:
    gate, ids = _NoteGate(), [new_id() for _ in range(50)]
    Script.before["write_note"] = gate
    handles = await house.bus.publish_many([EVENT] * 50, event_ids=ids)
    await gate.reached.wait()
    chosen = await gate.saga_of(house)

    await cancel_saga(house.database, chosen.id, by="a test")
    gate.opened.set()

    outcomes = {handle.event_id: await handle.outcome() for [handle] in handles}
    phases = [outcome.phase.value for outcome in outcomes.values()]
    assert sorted(set(phases)) == ["cancelled", "completed"]
    assert phases.count("cancelled") == 1
    assert outcomes[chosen.event_id].phase.value == "cancelled"
    assert (await house.holdings()).boxes == {"a": 51, "b": 49}
    assert (await house.holdings()).notes == 49


class _NoteGate:
    """Fails the note of the first saga that reaches it until the gate is opened; every other saga writes its note."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._event_id = ""

    async def __call__(self, tx: Transaction) -> None:
        if self._event_id in ("", tx.event_id) and not self.opened.is_set():
            self._event_id = tx.event_id
            self.reached.set()
            raise RuntimeError("not yet")

    async def saga_of(self, house: House) -> Any:
        return next(saga for saga in await house.sagas() if saga.event_id == self._event_id)


@pytest.mark.parametrize(
    ("count", "opened"), [(60, 1), pytest.param(400, 200, marks=pytest.mark.exhaustive)], ids=["thin", "full"]
)
async def test_sagas_of_terminated_partitions_all_complete(
    house: House, idle_recovery: None, count: int, opened: int
) -> None:
    """At least `opened` sagas are open when the partitions are terminated; the others wait."""
    gate = _EveryNoteFails()
    Script.before["write_note"] = gate
    handles = await house.bus.publish_many([EVENT] * count)
    await gate.reached.wait()

    async def are_open() -> bool:
        return len(await house.sagas()) >= opened

    await eventually(are_open, f"{opened} sagas are open", within=100)
    for workflow_id in {handle.workflow_id for [handle] in handles}:
        await house.client.get_workflow_handle(workflow_id).terminate()
    gate.is_open = True

    await eventually(lambda: _recovered(house, count), "every saga has its outcome", within=120)

    assert {saga.phase for saga in await house.sagas()} == {"completed"}
    assert (await house.holdings()).boxes == {"a": 100 - count, "b": count}
    assert (await house.holdings()).notes == count


class _EveryNoteFails:
    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.is_open = False

    async def __call__(self, tx: Transaction) -> None:
        if not self.is_open:
            self.reached.set()
            raise RuntimeError("not yet")


@pytest.fixture
def idle_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sweep look at executions that have only just closed."""
    monkeypatch.setattr(recovery, "_VISIBILITY_LAG", timedelta(0))


async def _recovered(house: House, count: int) -> bool:
    await recovery_of(house).sweep()
    return await _all_ended(house, count)


def recovery_of(house: House) -> Recovery:
    limits = Limits(grace=timedelta(0))
    return Recovery(house.client, house.database, house.catalog, task_queue=house.task_queue, limits=limits)


async def test_events_with_one_key_are_handled_in_the_order_of_publishing(house: House) -> None:
    order: list[str] = []

    async def record_order(tx: Transaction) -> None:
        order.append(tx.event_id)

    Script.before["write_note"] = record_order
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")
    ids = [new_id() for _ in range(90)]

    handles = await house.bus.publish_many([keyed] * 45, event_ids=ids[:45])
    handles += [await house.bus.publish(keyed, event_id=event_id) for event_id in ids[45:]]

    for [handle] in handles:
        assert (await handle.outcome()).phase.value == "completed"
    assert list(dict.fromkeys(order)) == ids
    assert max(saga.drives for saga in await house.sagas()) <= 2
    assert not [lock for lock in await rows(house.database, saga_lock) if lock.ticket > 0]


async def test_after_an_outage_of_the_database_all_sagas_continue_in_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    failures = [6]

    async def record_order(tx: Transaction) -> None:
        order.append(tx.event_id)

    async def open_after_outage(*args: Any, **options: Any) -> Any:
        if failures[0] > 0:
            failures[0] -= 1
            raise ConnectionRefusedError("the database is unavailable")
        return await open_sagas(*args, **options)

    Script.before["write_note"] = record_order
    monkeypatch.setattr(wave, "open_sagas", open_after_outage)
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")
    ids = [new_id() for _ in range(20)]

    handles = [await house.bus.publish(keyed, event_id=event_id) for event_id in ids]

    for [handle] in handles:
        assert (await handle.outcome()).phase.value == "completed"
    assert failures == [0]
    assert list(dict.fromkeys(order)) == ids
    assert {saga.owner_workflow_id for saga in await house.sagas()} == {handles[0][0].workflow_id}


async def test_an_event_that_fails_its_wave_is_isolated_and_later_events_keep_their_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    ids = [new_id() for _ in range(10)]
    bad, single_failures = ids[3], [2]

    async def record_order(tx: Transaction) -> None:
        order.append(tx.event_id)

    async def fail_the_bad_event(connection: Any, openings: Any, *args: Any, **options: Any) -> Any:
        if single_failures[0] > 0 and bad in [opening.saga.event_id for opening in openings]:
            single_failures[0] -= len(openings) == 1
            raise RuntimeError("this event cannot be opened")
        return await open_sagas(connection, openings, *args, **options)

    Script.before["write_note"] = record_order
    monkeypatch.setattr(wave, "open_sagas", fail_the_bad_event)
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")

    handles = await house.bus.publish_many([keyed] * 10, event_ids=ids)

    for [handle] in handles:
        assert (await handle.outcome()).phase.value == "completed"
    assert list(dict.fromkeys(order)) == ids


async def test_a_saga_waits_for_a_lock_that_another_execution_holds_and_is_woken(house: House) -> None:
    holder, waiter = new_id(), new_id()
    napping = SwarmRequested(source="a", target="b", coins=1, key="k", nap=True)
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")

    handles = await house.bus.publish_many([napping, keyed], event_ids=[holder, waiter])

    for [handle] in handles:
        assert (await handle.outcome()).phase.value == "completed"
    finished = {saga.event_id: saga.finished_at for saga in await house.sagas()}
    assert finished[holder] < finished[waiter]


async def test_sagas_that_wait_for_a_lock_continue_in_order_after_their_partition_was_terminated(house: House) -> None:
    """Recovery does not run: releasing the lock wakes the partition, which takes over sagas it does not know."""
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")
    holder = opening_of(Swarm, keyed, new_id())
    async with house.database.transaction() as connection:
        await open_sagas(connection, [holder], CATALOG, begins=True)
    waiting = await house.bus.publish_many([keyed] * 5)

    async def all_wait() -> bool:
        return len(await house.sagas()) == 6

    await eventually(all_wait, "all sagas wait for the lock")
    [carrier] = {handle.workflow_id for [handle] in waiting}
    partition = house.client.get_workflow_handle(carrier)
    await partition.terminate()
    [last] = await house.bus.publish(keyed)  # starts the partition again, and waits behind the sagas it does not carry
    await partition.signal("wake", "nobody")
    waker = SignalWaker(house.client)
    await finish_saga(house.database, CATALOG, FinishCommand(opening=holder, completed={"coins": 1}), waker)

    for [handle] in [*waiting, [last]]:
        assert (await handle.outcome()).phase.value == "completed"
    assert {saga.owner_workflow_id for saga in await house.sagas()} == {"", carrier}
    assert await house.dead_letters() == []


async def test_wakes_for_unknown_sagas_delay_nothing_and_leave_no_dead_letter(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "_RUN_SIGNALS", 5)  # nor does a wake that is carried into the next run
    [handle] = await house.bus.publish(EVENT)
    await handle.outcome()
    carrier = house.client.get_workflow_handle(handle.workflow_id)
    for names in ([b'"\\ud800"'], [b"{"], [f'"nobody-{number}"'.encode() for number in range(25_000)]):
        await carrier.signal("wake", args=[raw_json(name) for name in names])
    for number in range(5):
        await carrier.signal("wake", f"no-one-{number}")

    handles = await house.bus.publish_many([EVENT] * 12)

    for [handle] in handles:
        assert (await handle.outcome()).phase.value == "completed"
    assert await house.dead_letters() == []


async def test_a_run_that_grows_long_continues_in_another_run(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "_RUN_SIGNALS", 3)
    gate = _EveryNoteFails()
    Script.before["write_note"] = gate
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")
    [first] = await house.bus.publish(keyed)
    await gate.reached.wait()
    rest = [await house.bus.publish(keyed) for _ in range(4)]
    gate.is_open = True

    for [handle] in [[first], *rest]:
        assert (await handle.outcome()).phase.value == "completed"

    described = await house.client.get_workflow_handle(first.workflow_id).describe()
    assert described.run_id != first.run_id
    assert (await house.holdings()).boxes == {"a": 95, "b": 5}


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
async def test_more_signals_than_a_run_accepts_are_all_handled_and_the_next_run_starts_small(house: House) -> None:
    """At the real limits: the server rejects a run's 10,001st signal. Three in four are repeats, which cost little.

    Signals may arrive faster than a workflow task can complete, so that the server rejects some. Their sender retries,
    because a rejected signal was not accepted.
    """
    ids = [new_id() for _ in range(2_600)]
    messages = [
        wrap(EVENT.model_copy(update={"coins": 0}), event_id=event_id, source="tests").text.encode() for event_id in ids
    ]
    [first] = await house.bus.publish(EVENT)
    handle = house.client.get_workflow_handle(first.workflow_id)
    slots = asyncio.Semaphore(50)

    async def is_accepted(message: bytes) -> bool:
        try:
            await handle.signal("event", raw_json(message))
        except RPCError as fault:
            if "limit for signal events" not in fault.message:
                raise
            await asyncio.sleep(1)  # as a sender should after a rejection
            return False
        return True

    async def send(message: bytes) -> None:
        async with slots:
            await eventually(lambda: is_accepted(message), "the server accepts the signal", within=100)

    await asyncio.gather(*(send(messages[number % len(messages)]) for number in range(10_400)))

    await eventually(lambda: _all_ended(house, len(ids) + 1), "every saga has its outcome", within=400)
    now = await handle.describe()
    assert now.run_id != first.run_id
    assert now.status is WorkflowExecutionStatus.RUNNING
    started = (await house.client.get_workflow_handle(first.workflow_id, run_id=now.run_id).fetch_history()).events[0]
    payloads = started.workflow_execution_started_event_attributes.input.payloads
    assert sum(len(payload.data) for payload in payloads) <= 1024 * 1024
    assert not await house.dead_letters()


async def test_sagas_that_the_next_run_cannot_carry_are_opened_first(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "_RUN_SIGNALS", 3)
    monkeypatch.setattr(partition, "_FULL_SIGNALS", 3)
    monkeypatch.setattr(partition, "_CARRIED", 20 * 170)
    gate = _EveryNoteFails()
    Script.before["write_note"] = gate
    keyed = SwarmRequested(source="a", target="b", coins=1, key="k")
    [first] = await house.bus.publish(keyed)
    await gate.reached.wait()
    rest = [await house.bus.publish(keyed) for _ in range(10)]
    gate.is_open = True

    for [handle] in [[first], *rest]:
        assert (await handle.outcome()).phase.value == "completed"

    assert (await house.holdings()).boxes == {"a": 89, "b": 11}


async def test_a_cancelled_partition_drains_and_ends_and_the_next_event_starts_it_again(house: House) -> None:
    [handle] = await house.bus.publish(EVENT)
    partition_handle = house.client.get_workflow_handle(handle.workflow_id, run_id=handle.run_id)
    await partition_handle.cancel()

    totals = await partition_handle.result()
    key = new_id()
    while partition_for("Swarm", key, 2) != handle.workflow_id:
        key = new_id()
    completed = await house.bus.execute(Swarm, EVENT, event_id=key)

    assert totals["done"] == 1
    assert completed.coins == 1


def test_another_number_of_partitions_gives_another_set_of_partitions() -> None:
    keys = [f"user/{number}" for number in range(1_000)]
    eight = [partition_for("Swarm", key, 8) for key in keys]
    nine = [partition_for("Swarm", key, 9) for key in keys]

    assert {partition.rpartition("-of-")[2] for partition in eight} == {"8"}
    assert {partition.rpartition("-of-")[2] for partition in nine} == {"9"}
    assert not set(eight) & set(nine)
    assert all(80 < eight.count(partition) < 170 for partition in set(eight))
    assert partition_for("Swarm", "user/1", 8) == "Swarm/partition/5-of-8"


async def _all_ended(house: House, count: int) -> bool:
    sagas = await house.sagas()
    return len(sagas) == count and all(saga.outcome is not None for saga in sagas)


async def _letters(house: House, count: int) -> bool:
    return len(await house.dead_letters()) == count


async def _runs(handle: WorkflowHandle[Any, Any]) -> bool:
    try:
        await handle.describe()
    except RPCError:
        return False
    return True
