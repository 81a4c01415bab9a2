"""Workers whose clocks are an hour wrong, with a Temporal server and a database whose clocks are right."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator.store.core.schema import saga_meta
from orchestrator.store.recovery import swept_until
from orchestrator.worker.clocks import ahead_of_database, ahead_of_temporal, warn_of
from orchestrator.worker.recovery.closed_runs import newest_close
from tests.house import House, eventually
from tests.temporal.recovering import done, is_visible, publish, sweep
from tests.wrong_clock import true_now, wrong_clock

AHEAD, BEHIND = timedelta(hours=1), timedelta(hours=-1)

pytestmark = pytest.mark.usefixtures("impatient")


async def set_mark(house: House, mark: datetime) -> None:
    """Record up to when closed executions were searched, as an older worker did by its own clock."""
    async with house.database.transaction() as connection:
        await connection.execute(update(saga_meta).values(swept_until=mark))


async def closed_execution_is_visible(house: House) -> None:
    """Wait until the visibility store lists a completed execution, from which recovery learns Temporal's time."""

    async def has_completed() -> bool:
        return await newest_close(house.client) is not None

    await eventually(has_completed, "a completed execution is visible")


async def test_a_mark_in_the_future_hides_no_execution_that_was_cut_off(idle: House) -> None:
    async with idle.another_worker():
        await (await publish(idle)).closed()
    await closed_execution_is_visible(idle)
    sagas = [await publish(idle) for _ in range(4)]
    for saga in sagas[:2]:
        await saga.terminate()
        await is_visible(idle, saga.workflow_id)
    await set_mark(idle, true_now() + AHEAD)

    swept = [await sweep(idle) for _ in range(2)]

    assert done(swept[0]) == {"publish": 2}
    mark = await swept_until(idle.database)
    assert mark is not None
    assert mark <= true_now()
    async with idle.another_worker():
        assert [(await saga.ended()).phase for saga in sagas] == ["completed"] * 4


@pytest.mark.parametrize("ahead", [AHEAD, BEHIND], ids=["ahead", "behind"])
async def test_a_worker_with_a_wrong_clock_finds_executions_that_were_cut_off_and_sets_a_right_mark(
    idle: House, ahead: timedelta
) -> None:
    first = await publish(idle)
    await first.terminate()
    await is_visible(idle, first.workflow_id)

    with wrong_clock(ahead):
        swept = await sweep(idle)

    assert done(swept) == {"publish": 1}
    mark = await swept_until(idle.database)
    assert mark is not None
    assert true_now() - timedelta(minutes=5) < mark <= true_now()
    later = await publish(idle)
    await later.terminate()
    await is_visible(idle, later.workflow_id)
    assert done(await sweep(idle)) == {"publish": 1}


@pytest.mark.parametrize("ahead", [AHEAD, BEHIND], ids=["ahead", "behind"])
async def test_a_worker_says_that_its_clock_is_wrong(
    house: House, ahead: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker has polled for an unknown time, so the result is exact only to about a minute."""

    async def is_polling() -> bool:
        with wrong_clock(ahead):
            measured = await ahead_of_temporal(house.ready.client, house.task_queue, polling_for=60.0)
        return abs(measured - ahead) < timedelta(minutes=2)

    await eventually(is_polling, "Temporal knows when this worker polled")
    with wrong_clock(ahead):
        measured = await ahead_of_database(house.database)
    assert abs(measured - ahead) < timedelta(seconds=5)
    assert abs(await ahead_of_database(house.database)) < timedelta(seconds=5)
    assert await ahead_of_temporal(house.ready.client, house.task_queue, polling_for=60.0) == timedelta(0)

    warn_of(measured, "that of the database 'home'")

    relation = "ahead of" if ahead > timedelta(0) else "behind"
    assert f"{relation} that of the database 'home'" in caplog.text
