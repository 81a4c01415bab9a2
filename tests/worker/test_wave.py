"""Waves without a server: how one saga affects the others of its wave, and what the wave reports to its partition."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import event as sql_event
from temporalio.client import Client

from orchestrator import Refused, Transaction
from orchestrator.client.executions.own_execution import OwnExecution
from orchestrator.errors import Unreachable
from orchestrator.protocol.commands import FinishCommand, Opening
from orchestrator.protocol.messages.envelope import VERSION_NEWER, Envelope, UnreadableEvent, wrap
from orchestrator.protocol.names import own_workflow_id
from orchestrator.protocol.wave import PostponeReason, WaveCommand, WaveItem, WaveReply
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_outbox, saga_step
from orchestrator.store.retention import purge_some
from orchestrator.store.saga import finish, opening
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.outages import is_lost
from orchestrator.worker.partition import handover, reading, wave
from orchestrator.worker.partition import steps as wave_steps
from orchestrator.worker.partition.wave import Wave
from tests.cast import Plan, Script, stock
from tests.house import Holdings, rows
from tests.swarm import CATALOG, EVENT, Swarm, SwarmRequested

PARTITION = "Swarm/partition/1-of-2"
KEYED = SwarmRequested(source="a", target="b", coins=1, key="k")
BUGGY = SwarmRequested(source="a", target="b", coins=1, bug=True)


@pytest.fixture
async def home(database: Database) -> Database:
    """A database with a hundred coins in box `a`."""
    async with database.transaction() as connection:
        await stock(connection, a=100, b=0)
    return database


@pytest.fixture(autouse=True)
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of events that were handed over to their own execution."""
    event_ids: list[str] = []

    async def ensure(_client: Client, name: str, envelope: Envelope, _task_queue: str) -> OwnExecution:
        event_ids.append(envelope.event_id)
        return OwnExecution(own_workflow_id(name, envelope.event_id), "own run", started=True)

    monkeypatch.setattr(handover, "ensure_own_execution", ensure)
    return event_ids


async def drive(
    database: Database, *events: tuple[str, SwarmRequested] | WaveItem, opens_only: bool = False, **places: Any
) -> WaveReply:
    items: list[WaveItem] = []
    messages: list[bytes] = []
    for position, event in enumerate(events, start=1):
        if isinstance(event, WaveItem):
            items.append(event)
            continue
        items.append(WaveItem(position=position, source="event", **places))
        messages.append(wrap(event[1], event_id=event[0], source="test").text.encode())
    steps = StoreSteps(database, CATALOG)
    partition_wave = Wave(steps, cast(Client, None), "queue", Swarm, owner=(PARTITION, "first run"), run_id="run")
    return await partition_wave.drive(
        WaveCommand(first_run_id="first run", items=tuple(items), opens_only=opens_only), messages
    )


def fail_to_open(*ids: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it impossible to write the rows of these sagas."""

    async def open_sagas(connection: Any, openings: Sequence[Opening], *args: Any, **options: Any) -> Any:
        if any(opening.saga.event_id in ids for opening in openings):
            raise RuntimeError("cannot be opened")
        return await opening.open_sagas(connection, openings, *args, **options)

    monkeypatch.setattr(wave, "open_sagas", open_sagas)


async def test_a_saga_without_a_row_keeps_its_message_until_it_is_handed_over(
    home: Database, handed_over: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("a bug in locks")

    monkeypatch.setattr(wave, "lock_keys_of", fail)

    reply = await drive(home, *((f"e{number}", EVENT) for number in range(12)))

    assert len(handed_over) == reply.own == 10
    assert [left.event_id for left in reply.postponed] == [None, None]


async def test_a_saga_that_cannot_be_opened_blocks_its_key_and_no_other(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open("first", monkeypatch=monkeypatch)

    reply = await drive(home, ("first", KEYED), ("second", KEYED), ("other", EVENT))

    assert [(item.index, item.why, item.event_id) for item in reply.postponed] == [
        (0, PostponeReason.FAILED, None),
        (1, PostponeReason.UNREACHED, None),
    ]
    assert [row.event_id for row in await rows(home, saga)] == ["other"]


async def test_a_saga_that_can_never_be_opened_does_not_stop_its_partition(
    home: Database, handed_over: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_open("first", monkeypatch=monkeypatch)

    assert [item.why for item in (await drive(home, ("first", EVENT))).postponed] == [PostponeReason.FAILED]
    assert (await drive(home, ("first", EVENT), failures=2)).own == 1

    assert handed_over == ["first"]


async def test_a_step_whose_own_error_looks_like_a_lost_database_is_handed_over(
    home: Database, handed_over: list[str]
) -> None:
    async def read_a_file(_: Transaction) -> None:
        raise FileNotFoundError("letter.txt")

    Script.before["put"] = read_a_file

    assert [item.why for item in (await drive(home, ("e", EVENT))).postponed] == [PostponeReason.LOST]
    assert (await drive(home, ("e", EVENT), losses=9)).own == 1

    assert handed_over == ["e"]


async def test_a_saga_that_is_handed_over_is_owned_by_its_own_execution(home: Database) -> None:
    Plan.has_bug = True

    await drive(home, ("e", BUGGY))

    [row] = await rows(home, saga)
    assert (row.owner_workflow_id, row.owner_first_run_id) == ("Swarm/event/e", "own run")


async def test_a_saga_whose_own_execution_cannot_be_started_stays_in_its_partition(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> OwnExecution:
        raise ConnectionRefusedError("the server is away")

    Plan.has_bug = True
    monkeypatch.setattr(handover, "ensure_own_execution", away)

    reply = await drive(home, ("e", BUGGY))

    assert ([(item.why, item.event_id) for item in reply.postponed], reply.own) == ([(PostponeReason.LOST, "e")], 0)
    assert [row.owner_workflow_id for row in await rows(home, saga)] == [PARTITION]


async def test_a_saga_that_waits_for_a_lock_stays_in_its_partition(home: Database) -> None:
    await drive(home, ("holder", KEYED), opens_only=True)

    reply = await drive(home, ("waiter", KEYED), ("other", EVENT))

    assert ([(item.why, item.event_id) for item in reply.postponed], reply.done) == (
        [(PostponeReason.BLOCKED, "waiter")],
        1,
    )


async def test_sagas_that_end_together_each_have_their_outcome(home: Database) -> None:
    reply = await drive(home, *((f"e{number}", EVENT) for number in range(12)))

    assert reply.done == 12
    assert {(row.phase, row.outcome is None) for row in await rows(home, saga)} == {("completed", False)}
    assert len(await rows(home, saga_outbox)) == 12


async def test_an_ending_saga_makes_room_for_the_next_before_its_outcome_is_written(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = asyncio.Event()
    ending: list[str] = []
    finish_together = finish.finish_sagas

    async def finish_sagas(database: Database, catalog: Any, commands: Sequence[FinishCommand], waker: Any) -> Any:
        await asyncio.wait_for(both.wait(), 10)
        return await finish_together(database, catalog, commands, waker)

    finish_one = wave_steps.FinishGroups.finish

    async def end(self: wave_steps.FinishGroups, command: FinishCommand) -> Any:
        ending.append(command.opening.saga.event_id)
        if len(ending) == 2:
            both.set()
        return await finish_one(self, command)

    monkeypatch.setattr(wave, "_AT_ONCE", 1)
    monkeypatch.setattr(wave_steps, "finish_sagas", finish_sagas)
    monkeypatch.setattr(wave_steps.FinishGroups, "finish", end)

    assert (await drive(home, ("first", EVENT), ("second", EVENT))).done == 2
    assert sorted(ending) == ["first", "second"]


async def test_sagas_that_reach_their_steps_together_share_transactions(home: Database) -> None:
    if home.dialect == "sqlite":
        pytest.skip("on SQLite each step has its own transaction")
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1

    sql_event.listen(home.engine.sync_engine, "commit", count)
    before = await Holdings.of(home)

    assert (await drive(home, *((f"e{number}", EVENT) for number in range(12)))).done == 12

    assert commits <= 1 + 3 * 2 + 3 + 1  # the opening, three steps in two groups each, the outcomes, and the first read
    assert (await Holdings.of(home)).boxes == {"a": before.boxes["a"] - 12, "b": before.boxes["b"] + 12}
    assert {row.attempts for row in await rows(home, saga_step)} == {1}


async def test_a_refusal_of_one_saga_affects_no_other_of_its_group(home: Database) -> None:
    refused = {"e2", "e9"}

    async def refuse_some(tx: Transaction) -> None:
        if tx.event_id in refused:
            raise Refused("box.refused", "by the test")

    Script.after["put"] = refuse_some
    before = await Holdings.of(home)

    assert (await drive(home, *((f"e{number}", EVENT) for number in range(14)))).done == 14

    phases = {row.event_id: row.phase for row in await rows(home, saga)}
    assert {event_id for event_id, phase in phases.items() if phase == "failed"} == refused
    assert (await Holdings.of(home)).boxes == {"a": before.boxes["a"] - 12, "b": before.boxes["b"] + 12}


async def test_a_sagas_deadline_expires_while_it_waits_for_a_lock(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await drive(home, ("holder", KEYED), opens_only=True)
    monkeypatch.setattr(Swarm, "deadline", timedelta(0))

    reply = await drive(home, ("waiter", KEYED))

    assert reply.done == 1
    assert {(row.event_id, row.error_code) for row in await rows(home, saga)} == {
        ("holder", None),
        ("waiter", "saga.deadline_exceeded"),
    }


async def test_an_open_saga_that_this_worker_cannot_read_stays_in_its_partition(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await drive(home, ("e", EVENT), opens_only=True)

    def unwrap(*_: Any, **__: Any) -> None:
        raise UnreadableEvent("event.version_unknown", "older code")

    monkeypatch.setattr(reading, "unwrap", unwrap)
    reply = await drive(home, WaveItem(position=1, event_id="e"))

    assert [(item.why, item.event_id) for item in reply.postponed] == [(PostponeReason.UNREADABLE, "e")]
    assert not await rows(home, saga_dead_letter)


@pytest.mark.parametrize("is_open", [False, True])
async def test_an_event_of_a_newer_version_is_handed_over_to_wait_for_a_newer_worker(
    is_open: bool, home: Database, handed_over: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_open:
        await drive(home, ("e", EVENT), opens_only=True)

    def unwrap(*_: Any, **__: Any) -> None:
        raise UnreadableEvent(VERSION_NEWER, "newer code")

    monkeypatch.setattr(reading, "unwrap", unwrap)
    reply = await drive(home, WaveItem(position=1, event_id="e") if is_open else ("e", EVENT))

    assert (reply.own, reply.postponed, reply.dead_letters) == (1, (), 0)
    assert handed_over == ["e"]


async def test_each_saga_whose_row_is_gone_becomes_a_dead_letter(home: Database) -> None:
    reply = await drive(home, WaveItem(position=3, event_id="one"), WaveItem(position=4, event_id="two"))

    assert reply.dead_letters == 2
    assert [letter.origin_position for letter in await rows(home, saga_dead_letter)] == [3, 4]


async def test_a_reused_event_id_becomes_a_dead_letter_even_if_the_wave_only_opens_sagas(home: Database) -> None:
    await drive(home, ("e", EVENT))

    reply = await drive(home, ("e", KEYED), opens_only=True)

    assert (reply.dead_letters, reply.postponed) == (1, ())
    [letter] = await rows(home, saga_dead_letter)
    assert letter.code == "event.id_reused"


async def test_a_base_exception_affects_only_its_own_saga(home: Database, handed_over: list[str]) -> None:
    class Odd(BaseException):
        pass

    async def raise_it(tx: Transaction) -> None:
        if tx.event_id == "odd":
            raise Odd

    Script.before["put"] = raise_it

    reply = await drive(home, ("odd", EVENT), ("even", EVENT))

    assert (reply.done, reply.own, handed_over) == (1, 1, ["odd"])


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_an_operation_that_would_end_the_worker_is_a_failed_attempt(
    home: Database, kind: type[BaseException]
) -> None:
    async def raise_it(tx: Transaction) -> None:
        if tx.event_id == "odd":
            raise kind

    Script.before["put"] = raise_it

    reply = await drive(home, ("odd", EVENT), ("even", EVENT))

    assert [(item.event_id, item.why) for item in reply.postponed] == [("odd", PostponeReason.FAILED)]
    assert {row.event_id: row.phase for row in await rows(home, saga)} == {"odd": "forward", "even": "completed"}


def test_an_exhausted_connection_pool_is_not_a_sagas_fault() -> None:
    assert is_lost(Unreachable("all connections were in use"))


async def test_a_carried_saga_that_was_ended_elsewhere_and_purged_is_done(home: Database) -> None:
    await drive(home, ("one", EVENT))
    await purge_some(Databases.of(home), before=datetime.now(UTC) + timedelta(hours=1))

    reply = await drive(home, WaveItem(position=3, event_id="one"), ("two", EVENT))

    assert (reply.done, reply.postponed, reply.dead_letters) == (2, (), 0)
