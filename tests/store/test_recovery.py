"""The statements of recovery: overdue sagas, decisions to undo, and which deployment a database belongs to."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from orchestrator.protocol.commands import Phase, StepState
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.store.belonging import RecoveryRefused, adopt, check_belonging
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_lock, saga_meta, saga_step
from orchestrator.store.recovery import (
    RecordedSaga,
    UndoAnswer,
    record_swept,
    recorded_sagas,
    stalled_sagas,
    swept_until,
    undo_if_still_owned,
    would_undo,
)
from tests.cast_events import CoinsMoveRequested, LetterRequested
from tests.house import eventually, new_id, rows
from tests.orchestrators import CoinsMove, Letter
from tests.store.pacing import Pacer, driver_of, stop_inside_operations, until_stopped, waits_for_lock

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
MOVE = CoinsMoveRequested(source="a", target="b", coins=10)


async def add_saga(database: Database, *, silent: timedelta = timedelta(hours=1), **values: Any) -> UUID:
    """Insert the row of an unfinished saga; returns its id."""
    event_id = new_id()
    key = saga_id("CoinsMove", event_id)
    row = {
        "id": key,
        "orchestrator": "CoinsMove",
        "event_id": event_id,
        "envelope": "{}",
        "event_type": "COINS_MOVE_REQUESTED",
        "event_version": 1,
        "content_digest": "0" * 64,
        "phase": "forward",
        "owner_workflow_id": "owner",
        "owner_first_run_id": "run",
        "progressed_at": NOW - silent,
        "created_at": NOW - silent,
        **values,
    }
    async with database.transaction() as connection:
        await connection.execute(insert(saga).values(**row))
    return key


async def recorded(database: Database, key: UUID) -> RecordedSaga:
    """A saga's row as recovery reads it."""
    return (await recorded_sagas(database, [key]))[key]


async def all_overdue(database: Database, **options: Any) -> list[UUID]:
    """The ids from all pages."""
    found: list[UUID] = []
    last = None
    while page := await stalled_sagas(database, now=NOW, after=last, **options):
        found += [overdue.id for overdue in page]
        last = page[-1]
    return found


async def test_ended_progressing_and_sleeping_sagas_are_not_overdue(database: Database) -> None:
    silent = await add_saga(database)
    undoing = await add_saga(database, phase="undoing")
    woken = await add_saga(database, next_at=NOW - timedelta(seconds=1))
    await add_saga(database, next_at=NOW + timedelta(seconds=1))
    await add_saga(database, silent=timedelta(seconds=29))
    for phase in ("completed", "failed", "cancelled"):
        await add_saga(database, phase=phase)

    found = await all_overdue(database, before=NOW - timedelta(seconds=30))

    assert set(found) == {silent, undoing, woken}


async def test_a_saga_that_waits_for_a_lock_is_overdue_later_than_its_holder(database: Database) -> None:
    locks = {"lock_keys": '["k"]', "drives": 0}
    holds, waits, waits_long = [
        await add_saga(database, silent=timedelta(seconds=seconds), **locks) for seconds in (30, 59, 60)
    ]
    async with database.transaction() as connection:
        line = [{"key": "k", "ticket": 0, "next_ticket": 4, "saga_id": None}]
        line += [
            {"key": "k", "ticket": number, "next_ticket": None, "saga_id": key}
            for number, key in enumerate((holds, waits, waits_long), start=1)
        ]
        await connection.execute(insert(saga_lock), line)

    before = NOW - timedelta(seconds=30)
    found = await all_overdue(database, before=before, waiting_before=before - timedelta(seconds=30))

    assert set(found) == {holds, waits_long}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_contain_each_saga_once_and_the_longest_stalled_first(database: Database, limit: int) -> None:
    older = [await add_saga(database, silent=timedelta(hours=number)) for number in (5, 4, 3)]
    same = {await add_saga(database) for _ in range(4)}

    found = await all_overdue(database, before=NOW, limit=limit)

    assert found[:3] == older
    assert set(found[3:]) == same
    assert len(found) == 7


async def test_recovery_decides_an_undo_once_and_records_who_and_why(database: Database) -> None:
    key = await add_saga(database)
    seen = await recorded(database, key)

    answers = [await undo_if_still_owned(database, seen, message) for message in ("first", "second")]

    [row] = await rows(database, saga)
    assert answers == [UndoAnswer.UNDOING, UndoAnswer.UNDOING]
    assert (row.phase, row.reason, row.error_code, row.ended_by) == (
        "undoing",
        "cancelled",
        "saga.terminated",
        "recovery",
    )
    assert row.message == "first"
    assert row.progressed_at > seen.progressed_at


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({"owner_first_run_id": "another"}, UndoAnswer.OWNER_CHANGED),
        ({"owner_workflow_id": "another"}, UndoAnswer.OWNER_CHANGED),
        ({"owner_workflow_id": None}, UndoAnswer.OWNER_CHANGED),
        ({"phase": "completed"}, UndoAnswer.ENDED),
        ({"phase": "cancelled"}, UndoAnswer.ENDED),
        ({"pivot_step": 2}, UndoAnswer.PAST_PIVOT),
    ],
)
async def test_recovery_leaves_a_saga_that_changed_since_it_was_read(
    database: Database, changed: dict[str, Any], answer: UndoAnswer
) -> None:
    key = await add_saga(database)
    seen = await recorded(database, key)
    async with database.transaction() as connection:
        await connection.execute(update(saga).where(saga.c.id == key).values(**changed))
    before = await rows(database, saga)

    assert await undo_if_still_owned(database, seen, "terminated") is answer
    assert await would_undo(database, seen) is answer
    assert await rows(database, saga) == before


@pytest.mark.parametrize(
    ("irreversible", "state", "answer"),
    [
        (True, StepState.DONE, UndoAnswer.PAST_PIVOT),
        (True, StepState.ATTEMPTING, UndoAnswer.PAST_PIVOT),
        (True, StepState.REFUSED, UndoAnswer.UNDOING),
        (False, StepState.DONE, UndoAnswer.UNDOING),
        (False, StepState.ATTEMPTING, UndoAnswer.UNDOING),
    ],
)
async def test_an_irreversible_step_that_is_or_may_be_done_prevents_an_undo(
    database: Database, irreversible: bool, state: StepState, answer: UndoAnswer
) -> None:
    key = await add_saga(database)
    async with database.transaction() as connection:
        await connection.execute(
            insert(saga_step).values(
                saga_id=key,
                number=1,
                kind="external",
                operation="cast.send",
                arguments="{}",
                digest="0" * 64,
                attempt_token=key,
                irreversible=irreversible,
                state=state.value,
            )
        )
    seen = await recorded(database, key)

    assert await would_undo(database, seen) is answer
    assert (await recorded(database, key)).phase is Phase.FORWARD
    assert await undo_if_still_owned(database, seen, "terminated") is answer
    undone = answer is UndoAnswer.UNDOING
    assert (await recorded(database, key)).phase is (Phase.UNDOING if undone else Phase.FORWARD)


async def test_recovery_waits_for_an_open_step_and_sees_that_it_is_irreversible(stocked: Database) -> None:
    stop_inside_operations()
    event_id, pacer = new_id(), Pacer("inside step 2")
    letter = LetterRequested(source="a", coins=10)
    driving = asyncio.create_task(driver_of(stocked, Letter, letter, event_id, pacer).drive())
    await until_stopped(stocked, pacer, driving)
    seen = await recorded(stocked, saga_id("Letter", event_id))
    undoing = asyncio.create_task(undo_if_still_owned(stocked, seen, "terminated"))

    async def waits() -> bool:
        return await waits_for_lock(stocked)

    await eventually(waits, "the undo waits for the step")
    pacer.go_on.set()

    assert await undoing in (UndoAnswer.PAST_PIVOT, UndoAnswer.ENDED)
    assert (await driving).phase is Phase.COMPLETED


async def test_a_running_driver_undoes_a_saga_that_recovery_has_decided_to_undo(stocked: Database) -> None:
    event_id, pacer = new_id(), Pacer("before step 3")
    driving = asyncio.create_task(driver_of(stocked, CoinsMove, MOVE, event_id, pacer).drive())
    await pacer.reached.wait()
    seen = await recorded(stocked, saga_id("CoinsMove", event_id))

    answer = await undo_if_still_owned(stocked, seen, "terminated")
    pacer.go_on.set()
    outcome = await driving

    assert answer is UndoAnswer.UNDOING
    assert (outcome.phase, outcome.error_code) == (Phase.CANCELLED, "saga.terminated")
    [row] = await rows(stocked, saga)
    assert row.ended_by == "recovery"


async def test_the_time_of_the_last_sweep_moves_back_only_from_the_future(database: Database) -> None:
    await set_meta(database)
    assert await swept_until(database) is None

    for moment in (NOW, NOW - timedelta(hours=1)):
        await record_swept(database, moment, latest=NOW)

    assert await swept_until(database) == NOW
    await set_meta(database, swept_until=NOW + timedelta(hours=1))
    await record_swept(database, NOW, latest=NOW + timedelta(minutes=2))
    assert await swept_until(database) == NOW


async def set_meta(database: Database, **values: Any) -> None:
    """Update the row of `saga_meta`."""
    async with database.transaction() as connection:
        await connection.execute(update(saga_meta).values(**values or {"swept_until": None}))


async def test_a_database_belongs_to_one_namespace_of_one_cluster(database: Database) -> None:
    await check_belonging(database, "default", "one")  # no owner is recorded yet
    await set_meta(database, temporal_namespace="default", temporal_cluster_id="one", swept_until=NOW)

    await check_belonging(database, "default", "one")
    for namespace, cluster in (("staging", "one"), ("default", "two")):
        with pytest.raises(RecoveryRefused, match="recover --adopt"):
            await check_belonging(database, namespace, cluster)

    await adopt(database, "default", "two")
    await check_belonging(database, "default", "two")
    with pytest.raises(RecoveryRefused):
        await check_belonging(database, "default", "one")
    assert await swept_until(database) is None
