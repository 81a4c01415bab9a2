"""Waves in this process, without a server: what one event may do to the others, and what its partition is told."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import event as sql_event
from temporalio.client import Client

from orchestrator import Refused, Transaction
from orchestrator.client.own_execution import OwnExecution
from orchestrator.errors import Unreachable
from orchestrator.protocol.commands import FinishCommand, Opening
from orchestrator.protocol.envelope import VERSION_NEWER, Envelope, UnreadableEvent, wrap
from orchestrator.protocol.names import own_workflow_id
from orchestrator.protocol.wave import PostponeReason, WaveCommand, WaveItem, WaveReply
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_outbox, saga_step
from orchestrator.store.retention import purge_some
from orchestrator.store.saga import finish, opening
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.partition import handover, reading, wave
from orchestrator.worker.partition import steps as wave_steps
from orchestrator.worker.partition.steps import is_lost
from orchestrator.worker.partition.wave import Wave
from tests.cast import Plan, Script, stock
from tests.house import Holdings, rows
from tests.swarm import CATALOG, EVENT, Swarm, SwarmRequested

PARTITION = "Swarm/partition/1-of-2"
KEYED = SwarmRequested(source="a", target="b", coins=1, key="k")
BUGGY = SwarmRequested(source="a", target="b", coins=1, bug=True)


@pytest.fixture
async def home(database: Database) -> Database:
    """With coins in box `a`."""
    async with database.transaction() as connection:
        await stock(connection, a=100, b=0)
    return database


@pytest.fixture(autouse=True)
def given_away(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Events that got an execution of their own."""
    given: list[str] = []

    async def ensure(_client: Client, name: str, envelope: Envelope, _task_queue: str) -> OwnExecution:
        given.append(envelope.event_id)
        return OwnExecution(own_workflow_id(name, envelope.event_id), "own run", started=True)

    monkeypatch.setattr(handover, "ensure_own_execution", ensure)
    return given


async def drive(
    database: Database, *events: tuple[str, SwarmRequested] | WaveItem, opens_only: bool = False, **places: Any
) -> WaveReply:
    given: list[WaveItem] = []
    messages: list[bytes] = []
    for position, event in enumerate(events, start=1):
        if isinstance(event, WaveItem):
            given.append(event)
            continue
        given.append(WaveItem(position=position, door="event", **places))
        messages.append(wrap(event[1], event_id=event[0], source="test").text.encode())
    steps = StoreSteps(database, CATALOG)
    made = Wave(steps, cast(Client, None), "queue", Swarm, owner=(PARTITION, "first run"), run_id="run")
    return await made.drive(WaveCommand(first_run_id="first run", places=tuple(given), opens_only=opens_only), messages)


def unopened(*ids: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of these cannot be written."""

    async def open_sagas(connection: Any, openings: Sequence[Opening], *args: Any, **options: Any) -> Any:
        if any(one.saga.event_id in ids for one in openings):
            raise RuntimeError("cannot be opened")
        return await opening.open_sagas(connection, openings, *args, **options)

    monkeypatch.setattr(wave, "open_sagas", open_sagas)


async def test_an_event_whose_saga_has_no_row_is_never_let_go_with_its_message(
    home: Database, given_away: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("a bug in locks")

    monkeypatch.setattr(wave, "lock_keys_of", fail)

    reply = await drive(home, *((f"e{number}", EVENT) for number in range(12)))

    assert len(given_away) == reply.own == 10
    assert [left.event_id for left in reply.left] == [None, None]


async def test_one_that_cannot_be_opened_is_not_overtaken_by_its_key_and_others_go_on(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    unopened("first", monkeypatch=monkeypatch)

    reply = await drive(home, ("first", KEYED), ("second", KEYED), ("other", EVENT))

    assert [(left.index, left.why, left.event_id) for left in reply.left] == [
        (0, PostponeReason.FAILED, None),
        (1, PostponeReason.UNREACHED, None),
    ]
    assert [row.event_id for row in await rows(home, saga)] == ["other"]


async def test_one_that_can_never_be_opened_does_not_stop_its_partition(
    home: Database, given_away: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unopened("first", monkeypatch=monkeypatch)

    assert [left.why for left in (await drive(home, ("first", EVENT))).left] == [PostponeReason.FAILED]
    assert (await drive(home, ("first", EVENT), failures=2)).own == 1

    assert given_away == ["first"]


async def test_a_step_whose_own_error_looks_like_a_lost_database_gets_an_execution_of_its_own(
    home: Database, given_away: list[str]
) -> None:
    async def read_a_file(_: Transaction) -> None:
        raise FileNotFoundError("letter.txt")

    Script.before["put"] = read_a_file

    assert [left.why for left in (await drive(home, ("e", EVENT))).left] == [PostponeReason.LOST]
    assert (await drive(home, ("e", EVENT), losses=9)).own == 1

    assert given_away == ["e"]


async def test_what_is_given_away_is_owned_by_its_own_execution(home: Database) -> None:
    Plan.has_bug = True

    await drive(home, ("e", BUGGY))

    [row] = await rows(home, saga)
    assert (row.owner_workflow_id, row.owner_first_run_id) == ("Swarm/event/e", "own run")


async def test_one_whose_own_execution_cannot_be_started_stays_its_partitions(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> OwnExecution:
        raise ConnectionRefusedError("the server is away")

    Plan.has_bug = True
    monkeypatch.setattr(handover, "ensure_own_execution", away)

    reply = await drive(home, ("e", BUGGY))

    assert ([(left.why, left.event_id) for left in reply.left], reply.own) == ([(PostponeReason.LOST, "e")], 0)
    assert [row.owner_workflow_id for row in await rows(home, saga)] == [PARTITION]


async def test_one_that_waits_for_a_lock_stays_its_partitions(home: Database) -> None:
    await drive(home, ("holder", KEYED), opens_only=True)

    reply = await drive(home, ("waiter", KEYED), ("other", EVENT))

    assert ([(left.why, left.event_id) for left in reply.left], reply.done) == ([(PostponeReason.BLOCKED, "waiter")], 1)


async def test_sagas_that_end_together_each_have_their_outcome(home: Database) -> None:
    reply = await drive(home, *((f"e{number}", EVENT) for number in range(12)))

    assert reply.done == 12
    assert {(row.phase, row.outcome is None) for row in await rows(home, saga)} == {("completed", False)}
    assert len(await rows(home, saga_outbox)) == 12


async def test_a_saga_that_ends_makes_room_for_the_next_before_its_end_is_written(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = asyncio.Event()
    ending: list[str] = []
    finish_together = finish.finish_sagas

    async def finish_sagas(database: Database, catalog: Any, commands: Sequence[FinishCommand], waker: Any) -> Any:
        await asyncio.wait_for(both.wait(), 10)
        return await finish_together(database, catalog, commands, waker)

    finish_one = wave_steps.Finishing.finish

    async def end(self: wave_steps.Finishing, command: FinishCommand) -> Any:
        ending.append(command.opening.saga.event_id)
        if len(ending) == 2:
            both.set()
        return await finish_one(self, command)

    monkeypatch.setattr(wave, "_AT_ONCE", 1)
    monkeypatch.setattr(wave_steps, "finish_sagas", finish_sagas)
    monkeypatch.setattr(wave_steps.Finishing, "finish", end)

    assert (await drive(home, ("first", EVENT), ("second", EVENT))).done == 2
    assert sorted(ending) == ["first", "second"]


async def test_sagas_that_reach_their_steps_together_share_transactions(home: Database) -> None:
    if home.dialect == "sqlite":
        pytest.skip("on SQLite each step has a transaction of its own")
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1

    sql_event.listen(home.engine.sync_engine, "commit", count)
    before = await Holdings.of(home)

    assert (await drive(home, *((f"e{number}", EVENT) for number in range(12)))).done == 12

    assert commits <= 1 + 3 * 2 + 3 + 1  # the opening, three steps of two groups, ends, and the look before
    assert (await Holdings.of(home)).boxes == {"a": before.boxes["a"] - 12, "b": before.boxes["b"] + 12}
    assert {row.attempts for row in await rows(home, saga_step)} == {1}


async def test_what_one_saga_is_refused_hurts_none_of_those_that_went_with_it(home: Database) -> None:
    refused = {"e2", "e9"}

    async def refuse_some(tx: Transaction) -> None:
        if tx.event_id in refused:
            raise Refused("box.refused", "by the test")

    Script.after["put"] = refuse_some
    before = await Holdings.of(home)

    assert (await drive(home, *((f"e{number}", EVENT) for number in range(14)))).done == 14

    phases = {row.event_id: row.phase for row in await rows(home, saga)}
    assert {one for one, phase in phases.items() if phase == "failed"} == refused
    assert (await Holdings.of(home)).boxes == {"a": before.boxes["a"] - 12, "b": before.boxes["b"] + 12}


async def test_a_deadline_holds_for_who_waits_for_a_lock(home: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    await drive(home, ("holder", KEYED), opens_only=True)
    monkeypatch.setattr(Swarm, "deadline", timedelta(0))

    reply = await drive(home, ("waiter", KEYED))

    assert reply.done == 1
    assert {(row.event_id, row.error_code) for row in await rows(home, saga)} == {
        ("holder", None),
        ("waiter", "saga.deadline_exceeded"),
    }


async def test_an_open_saga_that_this_worker_cannot_read_stays_its_partitions(
    home: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await drive(home, ("e", EVENT), opens_only=True)

    def unwrap(*_: Any, **__: Any) -> None:
        raise UnreadableEvent("event.version_unknown", "older code")

    monkeypatch.setattr(reading, "unwrap", unwrap)
    reply = await drive(home, WaveItem(position=1, event_id="e"))

    assert [(left.why, left.event_id) for left in reply.left] == [(PostponeReason.UNREADABLE, "e")]
    assert not await rows(home, saga_dead_letter)


@pytest.mark.parametrize("is_open", [False, True])
async def test_an_event_of_a_newer_version_gets_an_execution_that_waits_for_a_newer_worker(
    is_open: bool, home: Database, given_away: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_open:
        await drive(home, ("e", EVENT), opens_only=True)

    def unwrap(*_: Any, **__: Any) -> None:
        raise UnreadableEvent(VERSION_NEWER, "newer code")

    monkeypatch.setattr(reading, "unwrap", unwrap)
    reply = await drive(home, WaveItem(position=1, event_id="e") if is_open else ("e", EVENT))

    assert (reply.own, reply.left, reply.letters) == (1, (), 0)
    assert given_away == ["e"]


async def test_rows_that_are_gone_are_told_each(home: Database) -> None:
    reply = await drive(home, WaveItem(position=3, event_id="one"), WaveItem(position=4, event_id="two"))

    assert reply.letters == 2
    assert [letter.origin_position for letter in await rows(home, saga_dead_letter)] == [3, 4]


async def test_a_reused_id_is_told_also_where_sagas_are_only_opened(home: Database) -> None:
    await drive(home, ("e", EVENT))

    reply = await drive(home, ("e", KEYED), opens_only=True)

    assert (reply.letters, reply.left) == (1, ())
    [letter] = await rows(home, saga_dead_letter)
    assert letter.code == "event.id_reused"


async def test_an_error_that_no_except_catches_hurts_only_its_saga(home: Database, given_away: list[str]) -> None:
    class Odd(BaseException):
        pass

    async def raise_it(tx: Transaction) -> None:
        if tx.event_id == "odd":
            raise Odd

    Script.before["put"] = raise_it

    reply = await drive(home, ("odd", EVENT), ("even", EVENT))

    assert (reply.done, reply.own, given_away) == (1, 1, ["odd"])


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
async def test_an_operation_that_would_end_the_worker_is_a_failed_attempt(
    home: Database, kind: type[BaseException]
) -> None:
    async def raise_it(tx: Transaction) -> None:
        if tx.event_id == "odd":
            raise kind

    Script.before["put"] = raise_it

    reply = await drive(home, ("odd", EVENT), ("even", EVENT))

    assert [(left.event_id, left.why) for left in reply.left] == [("odd", PostponeReason.FAILED)]
    assert {row.event_id: row.phase for row in await rows(home, saga)} == {"odd": "forward", "even": "completed"}


def test_having_no_connection_to_spare_is_no_sagas_fault() -> None:
    assert is_lost(Unreachable("all connections were in use"))


async def test_a_saga_that_it_carries_and_that_others_ended_long_ago_is_done(home: Database) -> None:
    await drive(home, ("one", EVENT))
    await purge_some(Databases.of(home), before=datetime.now(UTC) + timedelta(hours=1))

    reply = await drive(home, WaveItem(position=3, event_id="one"), ("two", EVENT))

    assert (reply.done, reply.left, reply.letters) == (2, (), 0)
