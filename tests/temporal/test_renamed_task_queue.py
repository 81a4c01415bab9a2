"""The task queue was renamed: executions on the old one are reported and can be moved, each saga exactly once."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
)

from orchestrator import NotFinished
from orchestrator.client.executions.task_queues import is_polled, other_queues
from orchestrator.store.core.database import Database
from orchestrator.worker.recovery import sweep as sweeps
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.schedule import ensure_schedule, schedule_id
from orchestrator.worker.recovery.sweep import Recovery
from orchestrator.workflow.system.recovery import Action, Sweep
from tests import swarm
from tests.cast_events import CoinsMoveRequested, NapRequested
from tests.house import CATALOG, House, eventually, open_house

BOTH = type(CATALOG).of(
    orchestrators=[*CATALOG.orchestrators.values(), *swarm.CATALOG.orchestrators.values()],
    operations=list(CATALOG.operations.values()),
)
MOVE = CoinsMoveRequested(source="a", target="b", coins=1)
KEYED = swarm.EVENT.model_copy(update={"key": "k"})


@pytest.fixture
async def old(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application on a task queue that no worker has ever polled."""
    async with open_house(client, database, BOTH, task_queue=f"old-{uuid4()}", working=False) as opened:
        yield opened


def renamed(old: House) -> Recovery:
    """Return the recovery of the new task queue."""
    return Recovery(
        old.ready.client, old.database, BOTH, task_queue=f"new-{old.task_queue}", limits=Limits(timedelta())
    )


async def visible(old: House, count: int) -> None:
    """Wait until the server lists the executions on the old task queue."""

    async def is_listed() -> bool:
        query = f'TaskQueue = "{old.task_queue}" AND ExecutionStatus = "Running"'
        return len([run async for run in old.client.list_workflows(query)]) == count

    await eventually(is_listed, f"{count} executions are listed")


async def on_new_queue(old: House, stack: AsyncExitStack) -> None:
    """Run a worker on the new task queue."""
    from orchestrator.settings import Settings
    from orchestrator.worker.process.manager import Manager

    manager = Manager(Settings(task_queue=f"new-{old.task_queue}", log_level="ERROR"), catalog=BOTH)
    await stack.enter_async_context(manager.worker(old.ready))


async def all_completed(old: House, handles: list[Any]) -> None:
    for handle in handles:
        await handle.result(timeout=timedelta(seconds=60))
    moved = len(handles)
    holdings = await old.holdings()
    assert (holdings.boxes["a"], holdings.boxes["b"]) == (100 - moved, moved)


async def test_executions_that_no_worker_has_started_are_moved_and_a_second_move_does_nothing(old: House) -> None:
    handles = [handle for [handle] in [await old.bus.publish(event) for event in (MOVE, KEYED, KEYED)]]
    await visible(old, 2)
    recovery = renamed(old)

    [queue] = [queue for queue in await other_queues(old.client, ["CoinsMove", "Swarm"], "new") if _is_of(old, queue)]
    assert "2 executions run on the task queue" in str(queue)
    assert "which no worker polls" in str(queue)
    dry = await recovery.sweep(dry_run=True, moves_from=old.task_queue)
    await visible(old, 2)
    moved = await recovery.sweep(moves_from=old.task_queue)
    again = await recovery.sweep(moves_from=old.task_queue)

    assert dry.counts[Action.RESUME] == 2
    assert moved.counts[Action.PUBLISH] >= 2
    assert not again.counts[Action.UNDO]
    async with AsyncExitStack() as stack:
        await on_new_queue(old, stack)
        await all_completed(old, handles)


def _is_of(old: House, queue: Any) -> bool:
    name: str = queue.task_queue
    return name == old.task_queue


async def test_sagas_in_progress_are_moved_and_not_undone(old: House) -> None:
    async with old.another_worker():
        [nap] = await old.bus.publish(NapRequested(coins=1, seconds=3))
        [swarmed] = await old.bus.publish(swarm.EVENT.model_copy(update={"nap": True}))

        async def have_begun() -> bool:
            return len(await old.sagas()) == 2

        await eventually(have_begun, "both sagas have begun")
    assert await is_polled(old.client, old.task_queue)
    handles = [nap, swarmed]

    await renamed(old).sweep(moves_from=old.task_queue)

    async with AsyncExitStack() as stack:
        await on_new_queue(old, stack)
        await renamed(old).sweep()
        await all_completed(old, handles)


async def test_the_next_move_completes_a_move_that_was_interrupted_after_a_termination(
    old: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = [handle for [handle] in [await old.bus.publish(event) for event in (MOVE, KEYED)]]
    await visible(old, 2)

    async def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "_settle_run", interrupt)
        for remaining in (2, 1):
            await visible(old, remaining)
            with pytest.raises(KeyboardInterrupt):
                await _move_only(old, patched)
    await visible(old, 0)

    async def is_done() -> bool:
        swept: Sweep = await renamed(old).sweep(moves_from=old.task_queue)
        return bool(swept.counts[Action.PUBLISH])

    await eventually(is_done, "the next move publishes the events of the executions that the first one terminated")
    async with AsyncExitStack() as stack:
        await on_new_queue(old, stack)
        await all_completed(old, handles)


async def _move_only(old: House, patched: pytest.MonkeyPatch) -> None:
    """Move without searching for executions that an earlier move terminated, as if they were not visible yet."""
    from orchestrator.worker.recovery import moving

    async def none(*_: object, **__: object) -> AsyncGenerator[Any]:
        return
        yield

    patched.setattr(moving, "closed_abnormally", none)
    await renamed(old).sweep(moves_from=old.task_queue)


async def test_schedules_are_moved_and_the_old_recovery_is_deleted(old: House) -> None:
    await ensure_schedule(old.client, old.task_queue, timedelta(hours=1))
    monthly = f"month-{uuid4()}"
    publishes = ScheduleActionStartWorkflow("ScheduledPublish", {}, id=monthly, task_queue=old.task_queue)
    await old.client.create_schedule(monthly, Schedule(action=publishes, spec=ScheduleSpec()))

    async def are_listed() -> bool:
        ids = {schedule.id async for schedule in await old.client.list_schedules()}
        return {monthly, schedule_id(old.task_queue)} <= ids

    await eventually(are_listed, "both schedules are listed")
    await renamed(old).sweep(moves_from=old.task_queue)

    handle = old.client.get_schedule_handle(monthly)
    action = (await handle.describe()).schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    assert action.task_queue == f"new-{old.task_queue}"
    await handle.delete()

    async def is_gone() -> bool:
        return schedule_id(old.task_queue) not in {schedule.id async for schedule in await old.client.list_schedules()}

    await eventually(is_gone, "the old recovery schedule is deleted")


async def test_a_client_whose_task_queue_no_worker_polls_gets_an_error_that_says_so(old: House) -> None:
    handles = [handle for [handle] in [await old.bus.publish(event) for event in (MOVE, KEYED)]]

    for handle in handles:
        with pytest.raises(NotFinished, match=f"no worker polls its task queue '{old.task_queue}'"):
            await handle.result(timeout=timedelta(seconds=0.1))
