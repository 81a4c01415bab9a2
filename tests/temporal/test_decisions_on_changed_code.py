"""A decision about a saga is carried out even if its execution fails at each replay because the code has changed."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from orchestrator.definition.catalog import Catalog
from orchestrator.operation import Operation
from orchestrator.store.core.database import Database
from orchestrator.store.saga.intervention import cancel_saga
from orchestrator.worker.process.prepare import Ready
from tests import cast
from tests.cast import Plan
from tests.deployed import Deployed
from tests.deployed_events import DeployedRequested
from tests.house import House, eventually, new_id, open_house
from tests.temporal.recovering import Published, done, recovery_of, sweep

OPERATIONS: list[Operation[..., Any]] = [cast.take, cast.put, cast.write_note]
CATALOG = Catalog.of(orchestrators=[Deployed], operations=OPERATIONS)


@pytest.fixture
async def idle(database: Database, client: Client) -> AsyncGenerator[House]:
    async with open_house(client, database, CATALOG, task_queue=f"deployed-{uuid4()}", working=False) as opened:
        yield opened


@asynccontextmanager
async def deployed(
    house: House, change: str, operations: Sequence[Operation[..., Any]] = OPERATIONS
) -> AsyncGenerator[House]:
    """Run a worker with another version of the code."""
    Plan.deployed = change
    catalog = Catalog.of(orchestrators=[Deployed], operations=operations)
    async with house.manager.worker(Ready(house.ready.client, house.database, catalog)):
        yield house


async def asleep(house: House) -> Published:
    """Publish a saga, wait until it sleeps after its first step, and stop the worker."""
    event_id = new_id()
    async with deployed(house, ""):
        await house.bus.publish(DeployedRequested(coins=10), event_id=event_id)

        async def sleeps() -> bool:
            return any(row.next_at is not None for row in await house.sagas())

        await eventually(sleeps, "the saga sleeps")
    return Published(house, event_id, f"Deployed/event/{event_id}")


async def keeps_failing(house: House, saga: Published) -> None:
    """Wait until the saga's workflow task has failed three times."""

    async def fails() -> bool:
        described = await saga.handle.describe()
        return bool(described.raw_description.pending_workflow_task.attempt > 2)

    await eventually(fails, "the workflow task fails", within=60)


async def sweep_until_undone(house: House) -> None:
    """Sweep until the visibility store shows the failing execution and the sweep undoes its saga."""

    async def is_undone() -> bool:
        return done(await sweep(house)) == {"undo": 1}

    await eventually(is_undone, "a sweep undoes the saga", within=60)


async def assert_undone(house: House, saga: Published, status: str = "CANCELED") -> None:
    row = await saga.ended()
    assert row.phase == "cancelled"
    assert (await house.holdings()).boxes == {"a": 100, "b": 0}
    assert len(await house.outbox()) == 1

    async def has_ended() -> bool:
        return (await saga.handle.describe()).status is WorkflowExecutionStatus[status]

    await eventually(has_ended, f"the execution has ended as {status}")


@pytest.mark.parametrize(
    "change",
    [
        "raises",
        *(pytest.param(change, marks=pytest.mark.exhaustive) for change in ("another step", "another operation")),
    ],
)
async def test_a_cancel_from_the_web_ui_is_carried_out_even_if_the_execution_never_processes_it(
    idle: House, change: str
) -> None:
    saga = await asleep(idle)
    async with deployed(idle, change):
        await saga.handle.cancel(reason="the wrong account")
        await keeps_failing(idle, saga)
        assert (await saga.row()).phase == "forward"

        await sweep_until_undone(idle)

        await assert_undone(idle, saga)
    row = await saga.row()
    assert (row.error_code, row.ended_by) == ("saga.cancelled", "recovery")
    assert "the wrong account" in row.message


async def test_a_cancel_in_the_database_is_carried_out_by_an_execution_that_starts_again(idle: House) -> None:
    saga = await asleep(idle)
    await cancel_saga(idle.database, (await saga.row()).id, by="a test")
    await saga.handle.signal("retry")
    async with deployed(idle, "raises"):
        await keeps_failing(idle, saga)

        assert done(await recovery_of(idle).sweep(dry_run=True)) == {"undo": 1}
        assert done(await sweep(idle)) == {"undo": 1}

        await assert_undone(idle, saga, "FAILED")


@pytest.mark.exhaustive
async def test_two_concurrent_sweeps_undo_the_saga_once(idle: House) -> None:
    saga = await asleep(idle)
    await saga.handle.cancel()
    async with deployed(idle, "raises"):
        await keeps_failing(idle, saga)
        key = (await saga.row()).id
        await asyncio.gather(*(recovery_of(idle).recover([key]) for _ in range(2)))

        await assert_undone(idle, saga)


async def test_a_terminated_saga_is_undone_even_if_the_deployed_code_raises(idle: House) -> None:
    saga = await asleep(idle)
    await saga.terminate("the wrong account")
    async with deployed(idle, "locks raise"):
        await recovery_of(idle).recover([(await saga.row()).id])

        row = await saga.ended()

    assert (row.phase, row.error_code) == ("cancelled", "saga.terminated")
    assert (await idle.holdings()).boxes == {"a": 100, "b": 0}


@pytest.mark.exhaustive
async def test_a_bug_alone_undoes_nothing(idle: House) -> None:
    saga = await asleep(idle)
    await saga.handle.signal("retry")
    async with deployed(idle, "raises"):
        await keeps_failing(idle, saga)

        assert done(await sweep(idle)) == {}

    assert (await saga.row()).phase == "forward"


async def test_an_undo_without_its_operation_names_it_and_ends_once_the_operation_is_back(idle: House) -> None:
    saga = await asleep(idle)
    await saga.handle.cancel()
    async with deployed(idle, "another operation", OPERATIONS[1:]):
        await keeps_failing(idle, saga)
        await recovery_of(idle).recover([(await saga.row()).id])

        async def is_stuck() -> bool:
            row = await saga.row()
            return row.stuck_step == 1 and "cast.take" in row.stuck_error

        await eventually(is_stuck, "the saga is stuck and names the operation", within=60)
        assert (await saga.row()).phase == "undoing"
        assert (await idle.holdings()).boxes == {"a": 90, "b": 0}
    async with deployed(idle, ""):
        await saga.handle.signal("retry")
        await assert_undone(idle, saga)
