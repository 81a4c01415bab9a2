"""What became of an event: told by its execution where that can, by the rows wherever it cannot, and to whoever asks."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update
from temporalio.client import Client

from orchestrator import (
    EventBus,
    EventRejected,
    NotFinished,
    NotHeard,
    SagaCancelled,
    SagaFailed,
    SagaUnknown,
    Unreachable,
    UsageError,
)
from orchestrator.drive.messages import Phase
from orchestrator.envelope import wrap
from orchestrator.store.schema import saga as saga_table
from orchestrator.store.schema import saga_outbox
from orchestrator.workflow.names import own_workflow_id
from tests.cast import Gate, Script, refuses
from tests.house import House, eventually, new_id
from tests.orchestrators import (
    CoinsMove,
    CoinsMoveCompleted,
    CoinsMoveFailed,
    CoinsMoveRequested,
)
from tests.store.pacing import driver_of
from tests.temporal.recovering import EVENT, Stops, publish_until, sweep

SOON = timedelta(seconds=20)
AT_ONCE = timedelta(milliseconds=300)


@pytest.fixture(params=["with the database", "through a worker"])
async def bus(request: pytest.FixtureRequest, house: House) -> AsyncGenerator[EventBus]:
    """A client's bus: one that can read the tables, and one that has to ask."""
    database = house.database if request.param == "with the database" else None
    made = EventBus(house.client, house.catalog, task_queue=house.task_queue, database=database)
    yield made
    if database is None:
        await made.close()


ENDS = ["terminated", "terminated before it was taken", "timed out", "cancelled by hand", "reset", "deleted"]


@pytest.mark.parametrize("end", ENDS)
async def test_an_execution_that_is_cut_off_is_no_outcome_and_the_saga_tells(
    house: House, bus: EventBus, stops: Stops, end: str
) -> None:
    ...


async def test_a_saga_of_long_ago_tells_its_outcome_though_no_execution_is_there(house: House, bus: EventBus) -> None:
    """As after Temporal's retention: only the row is left."""
    Script.before["put"] = refuses()
    event_id = new_id()
    await driver_of(house.database, CoinsMove, EVENT, event_id).drive()

    with pytest.raises(SagaFailed) as told:
        await bus.handle(CoinsMove, event_id).result(timeout=SOON)
    followed = [progress.what async for progress in bus.handle(CoinsMove, event_id).follow()]

    assert isinstance(told.value.failure, CoinsMoveFailed)
    assert followed == ["finish: undone"]
    with pytest.raises(SagaUnknown):
        await bus.handle(CoinsMove, new_id()).outcome(timeout=SOON)


async def test_the_next_event_that_matches_is_heard_from_wherever_it_comes(house: House, bus: EventBus) -> None:
    await house.bus.execute(CoinsMove, EVENT)
    before = datetime.now(UTC)
    async with bus.listening(CoinsMoveCompleted) as completed, bus.listening(CoinsMoveRequested) as requested:
        with pytest.raises(NotHeard):
            await completed.next(timeout=AT_ONCE)
        await house.bus.execute(CoinsMove, EVENT.model_copy(update={"coins": 3}))
        assert (await completed.next(timeout=SOON)).coins == 3
        assert (await requested.next(timeout=SOON)).coins == 3
        with pytest.raises(NotHeard):
            await completed.next(timeout=AT_ONCE)
    heard = await bus.wait_for(CoinsMoveCompleted, matching=lambda one: one.coins == 3, since=before, timeout=SOON)
    assert heard.coins == 3
