"""The database's clock writes and compares all times in the engine's tables; no worker's clock matters."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from orchestrator import DomainEvent
from orchestrator.protocol.commands import Expired, Opening, StepCommand
from orchestrator.protocol.lookup import EventFilter, Lookup
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.protocol.messages.envelope import read, wrap
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import metadata, saga, saga_dead_letter, saga_outbox
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.store.dead_letters.resolution import Settled, claim_for_replay, settle_dead_letter
from orchestrator.store.outbox import NO_SAGA, claim, is_due, postpone
from orchestrator.store.queries import lookup
from orchestrator.store.queries.lookup import answer
from orchestrator.store.queries.outbox import waiting
from orchestrator.store.recovery import stalled_sagas
from orchestrator.store.retention import database_time
from orchestrator.store.saga.group_commit import run_step_group
from orchestrator.store.saga.opening import begin_saga, open_sagas
from tests.cast_events import (
    AtomicMoveRequested,
    CoinsMoveRequested,
    HurryRequested,
    LetterRequested,
    TurnTakingRequested,
)
from tests.conftest import Kind, new_database
from tests.house import CATALOG, opening_of, rows
from tests.orchestrators import AtomicMove, CoinsMove, Hurry, Letter, TurnTaking
from tests.store.pacing import driver_of
from tests.wrong_clock import true_now, wrong_clock

HOUR = timedelta(hours=1)
WRONG = pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])
MOVE = CoinsMoveRequested(source="a", target="b", coins=10)


async def stored_times(database: Database) -> dict[str, datetime]:
    """Every time in the engine's tables that is not null, by table and column."""
    found: dict[str, datetime] = {}
    for table in metadata.sorted_tables:
        for number, row in enumerate(await rows(database, table)):
            times = {f"{table.name}.{name} {number}": value for name, value in row._mapping.items()}
            found |= {name: value for name, value in times.items() if isinstance(value, datetime)}
    return found


@WRONG
async def test_every_time_in_the_tables_comes_from_the_databases_clock(stocked: Database, ahead: timedelta) -> None:
    began = await clock.read_clock(stocked)
    sagas: Sequence[tuple[type, DomainEvent]] = [
        (CoinsMove, MOVE),
        (CoinsMove, CoinsMoveRequested(source="a", target="nowhere", coins=10)),
        (AtomicMove, AtomicMoveRequested(source="a", target="b", coins=10)),
        (Letter, LetterRequested(source="a", coins=10)),
        (TurnTaking, TurnTakingRequested(keys=("k", "l"), coins=1)),
    ]

    with wrong_clock(ahead):
        for number, (orchestrator, event) in enumerate(sagas):
            await driver_of(stocked, orchestrator, event, f"saga-{number}").drive()
        async with stocked.transaction() as connection:
            blocked = [opening_of(TurnTaking, TurnTakingRequested(keys=("k",), coins=1), name) for name in "xy"]
            await open_sagas(connection, blocked, CATALOG, begins=True)
        await store_dead_letter(stocked, DeadLetter(Inbound("bus", 1, b"letter"), "c", "r", "w", "r"))

    times = await stored_times(stocked)
    ended = await clock.read_clock(stocked)
    tables = {name.split(".")[0] for name in times}
    assert tables == {"saga", "saga_step", "saga_lock", "saga_outbox", "saga_dead_letter"}
    assert {name: time for name, time in times.items() if not began <= time <= ended} == {}


@WRONG
async def test_steps_recorded_in_one_group_have_the_databases_time(stocked: Database, ahead: timedelta) -> None:
    if stocked.dialect == "sqlite":
        pytest.skip("on SQLite each step has its own transaction")
    began = await clock.read_clock(stocked)
    openings = [opening_of(CoinsMove, MOVE, name) for name in ("one", "two")]

    with wrong_clock(ahead):
        async with stocked.transaction() as connection:
            await open_sagas(connection, openings, CATALOG, begins=True)
        assert await run_step_group(stocked, CATALOG, [_take(opening) for opening in openings]) is not None

    ended = await clock.read_clock(stocked)
    assert all(began <= time <= ended for time in (await stored_times(stocked)).values())


def _take(opening: Opening) -> StepCommand:
    return StepCommand(
        saga=opening.saga,
        number=1,
        operation="cast.take",
        arguments={"name": "a", "coins": 10},
        event_time=read(opening.envelope).time.isoformat(),
    )


async def _begin(database: Database, opening: Opening) -> object:
    async with database.transaction() as connection:
        return await begin_saga(connection, opening, CATALOG, begins=True)


@pytest.mark.parametrize("opened", [HOUR, timedelta(0), -HOUR], ids=["opened-ahead", "opened-right", "opened-behind"])
@pytest.mark.parametrize("began", [HOUR, timedelta(0), -HOUR], ids=["began-ahead", "began-right", "began-behind"])
async def test_a_sagas_deadline_expires_by_the_databases_clock(
    database: Database, opened: timedelta, began: timedelta
) -> None:
    event = HurryRequested(coins=1)
    opening = opening_of(Hurry, event, "one").model_copy(update={"deadline": 60.0})
    with wrong_clock(opened):
        assert await _begin(database, opening) is None

    with wrong_clock(began):
        assert await _begin(database, opening) is None
        async with database.transaction() as connection:
            await connection.execute(update(saga).values(created_at=clock.now_plus(-61)))
        assert isinstance(await _begin(database, opening), Expired)


async def _add_saga(database: Database, **values: Any) -> None:
    async with database.transaction() as connection:
        row = (await open_sagas(connection, [opening_of(CoinsMove, MOVE, "one")], CATALOG, begins=True)).popitem()[1]
        await connection.execute(update(saga).where(saga.c.id == row.id).values(**values))


async def _count_overdue(database: Database, *, from_future: bool) -> int:
    now = await clock.read_clock(database)
    before = now - timedelta(seconds=30)
    return len(await stalled_sagas(database, before=before, now=now, from_future=from_future))


async def test_a_saga_whose_progress_lies_in_the_future_is_overdue(database: Database) -> None:
    await _add_saga(database, progressed_at=clock.now_plus(3_600))

    assert (await _count_overdue(database, from_future=False), await _count_overdue(database, from_future=True)) == (
        0,
        1,
    )


async def test_a_saga_that_has_just_made_progress_is_not_overdue(database: Database) -> None:
    await _add_saga(database, progressed_at=clock.now())

    assert (await _count_overdue(database, from_future=False), await _count_overdue(database, from_future=True)) == (
        0,
        0,
    )


@pytest.mark.parametrize(("next_at", "overdue"), [(3_000.0, 0), (7_200.0, 1)], ids=["waits", "beyond any wait"])
async def test_a_saga_due_later_than_any_wait_allows_is_overdue(
    database: Database, next_at: float, overdue: int
) -> None:
    await _add_saga(database, progressed_at=clock.now_plus(-60), next_at=clock.now_plus(next_at))

    assert await _count_overdue(database, from_future=False) == overdue


@WRONG
async def test_a_dead_letter_in_replay_is_protected_for_a_minute_of_the_databases_clock(
    database: Database, ahead: timedelta
) -> None:
    number = await store_dead_letter(database, DeadLetter(Inbound("bus", 1, b"letter"), "c", "r", "w", "r"))
    with wrong_clock(ahead):
        assert await claim_for_replay(database, number, by="olena") is not None

    assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.UNDER_WAY

    with wrong_clock(ahead):
        assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.UNDER_WAY
    future = f"being replayed since {(true_now() + HOUR).isoformat()} by an older worker"
    async with database.transaction() as connection:
        await connection.execute(update(saga_dead_letter).values(settled_as=future))
    assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.DONE


async def test_a_workers_fast_clock_purges_nothing_too_early(database: Database) -> None:
    with wrong_clock(HOUR):
        assert await database_time(database) <= true_now()


@WRONG
async def test_an_event_is_due_by_the_databases_clock(database: Database, ahead: timedelta) -> None:
    with wrong_clock(ahead):
        async with database.transaction() as connection:
            row = {"event_id": "one", "saga_id": opening_of(CoinsMove, MOVE, "one").saga.id, "envelope": "{}"}
            await connection.execute(insert(saga_outbox).values(**row, created_at=clock.now_plus(-5)))
        assert 5 <= (await waiting(database)).lag.total_seconds() < 60
        [claimed] = await claim(database, limit=1, lease=timedelta(minutes=1))
        assert not await is_due(database)
        await postpone(database, [(claimed.id, "later", timedelta(minutes=1))])
        assert not await is_due(database)
        await postpone(database, [(claimed.id, "now", timedelta(0))])

    assert await is_due(database)


async def test_comparing_with_the_databases_clock_uses_an_index(database: Database) -> None:
    """A volatile function, which may change within a statement, would rule out the index."""
    statement = select(saga.c.id).where(saga.c.phase.in_(("forward", "undoing")), saga.c.progressed_at > clock.now())

    def explained(connection: Connection) -> str:
        explain = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
        text = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        if database.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        return "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain} {text}"))

    async with database.transaction() as connection:
        plan = await connection.run_sync(explained)

    assert "ix_saga_unfinished" in plan
    assert "Filter" not in plan or "progressed_at" not in plan.partition("Filter")[2]


async def test_an_event_from_a_database_with_a_slow_clock_is_not_missed(
    database: Database, kind: Kind, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = timedelta(minutes=10)
    books = Database(await new_database(request, kind, tmp_path))
    envelope = wrap(MOVE, event_id="one", source="tests")
    async with books.transaction() as connection:
        row = {"event_id": "one", "saga_id": NO_SAGA, "target": "listeners", "envelope": envelope.text}
        await connection.execute(insert(saga_outbox).values(**row, created_at=clock.now_plus(-behind.total_seconds())))
    read_clock = clock.read_clock

    async def read_wrong_clock(database: Database) -> datetime:
        return await read_clock(database) - (behind if database is books else timedelta(0))

    monkeypatch.setattr(clock, "read_clock", read_wrong_clock)

    event_filter = EventFilter(types=(CoinsMoveRequested.type_name(),))
    lookup_answer = await answer(Databases(database, {"books": books}), Lookup(events=event_filter))

    await books.close()
    [reported] = lookup_answer.events
    assert abs(reported.recorded_at - true_now()) < timedelta(minutes=1)


async def test_an_event_is_not_missed_when_another_database_answers_late(
    database: Database, kind: Kind, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Database(await new_database(request, kind, tmp_path))
    envelope = wrap(MOVE, event_id="one", source="tests")
    async with books.transaction() as connection:
        row = {"event_id": "one", "saga_id": NO_SAGA, "target": "listeners", "envelope": envelope.text}
        await connection.execute(insert(saga_outbox).values(**row, created_at=clock.now()))
    recorded = await clock.read_clock(database)
    late = timedelta(minutes=5)
    passed = iter((0.0, late.total_seconds()))
    read_clock = clock.read_clock

    async def read_late(database: Database) -> datetime:
        return await read_clock(database) + (late if database is books else timedelta(0))

    monkeypatch.setattr(clock, "read_clock", read_late)
    monkeypatch.setattr(lookup, "monotonic", lambda: next(passed))

    event_filter = EventFilter(types=(CoinsMoveRequested.type_name(),), since=recorded - timedelta(minutes=1))
    lookup_answer = await answer(Databases(database, {"books": books}), Lookup(events=event_filter))

    await books.close()
    assert [reported.key for reported in lookup_answer.events] == ["COINS_MOVE_REQUESTED/one"]
