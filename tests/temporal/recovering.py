"""Tools for tests of recovery: stop a saga between two transactions; terminate, delete or reset its execution."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest

from orchestrator.settings import Settings
from orchestrator.store.core.schema import saga as saga_table
from orchestrator.store.core.schema import saga_meta
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.recovery import execution_status, stalled_sagas
from orchestrator.worker.recovery import limits as sweeping
from orchestrator.worker.recovery.closed_runs import closed_abnormally
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.sweep import Recovery
from orchestrator.workflow.system.recovery import Sweep
from tests.cast_events import CoinsMoveRequested, LetterRequested
from tests.house import House, eventually, new_id

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
LETTER = LetterRequested(source="a", coins=10)


class Stop:
    """A point between two transactions of a saga, where the first execution that reaches it waits for the test.

    Every attempt of that execution waits, even after it was terminated: its worker learns of that late and would
    otherwise drive the saga further.
    """

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()


@dataclass
class Stops:
    """The points at which sagas are stopped: before `step 2`, `undo 1` or `finish`."""

    at: dict[tuple[str, str], Stop] = field(default_factory=dict[tuple[str, str], Stop])

    def before(self, what: str, event_id: str) -> Stop:
        """Stop a saga at this point, once."""
        return self.at.setdefault((event_id, what), Stop())

    async def wait_at(self, what: str, event_id: str) -> None:
        """Wait if the saga is to be stopped at this point."""
        stop = self.at.get((event_id, what))
        if stop is None:
            return
        run_id = activity.info().workflow_run_id
        if stop.run_id in (None, run_id):
            stop.run_id = run_id
            stop.reached.set()
            await stop.opened.wait()

    def open_all(self) -> None:
        """Let every stopped saga continue, and stop no other."""
        for stop in self.at.values():
            stop.opened.set()
        self.at.clear()


@dataclass(frozen=True)
class Published:
    """A published event and the execution of its saga."""

    house: House
    event_id: str
    workflow_id: str

    @property
    def handle(self) -> Any:
        """The current run of its execution."""
        return self.house.client.get_workflow_handle(self.workflow_id)

    async def terminate(self, reason: str | None = None) -> None:
        """Terminate the execution."""
        await self.handle.terminate(reason=reason)

    async def delete(self) -> None:
        """Delete the execution and wait until it is gone."""
        await self.house.client.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(
                namespace=self.house.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=self.workflow_id),
            )
        )

        async def gone() -> bool:
            return (await execution_status.status_of_execution(self.house.client, self.workflow_id)).run_id == ""

        await eventually(gone, "the execution is deleted")

    async def reset(self) -> None:
        """Reset the execution to its beginning."""
        [first_task, *_] = [
            event.event_id
            async for event in self.handle.fetch_history_events()
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
        ]
        await self.house.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=self.house.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=self.workflow_id),
                reason="a test",
                workflow_task_finish_event_id=first_task,
                request_id=str(uuid4()),
            )
        )

    async def row(self) -> Any:
        """Read the saga's row."""
        async with self.house.database.reading() as connection:
            result = await connection.execute(select(saga_table).where(saga_table.c.event_id == self.event_id))
            return result.first()

    async def ended(self) -> Any:
        """Wait until the saga has an outcome and return its row."""

        async def has_ended() -> bool:
            row = await self.row()
            return row is not None and row.outcome is not None

        await eventually(has_ended, f"saga {self.workflow_id} has its outcome")
        return await self.row()

    async def closed(self) -> None:
        """Wait until the execution has closed."""

        async def has_closed() -> bool:
            return not (await execution_status.status_of_execution(self.house.client, self.workflow_id)).runs

        await eventually(has_closed, f"{self.workflow_id} closes")


async def publish(house: House, event: Any = EVENT, event_id: str | None = None) -> Published:
    """Publish an event to its only listener."""
    [saga] = await house.bus.publish(event, event_id=event_id)
    return Published(house, saga.event_id, saga.workflow_id)


async def publish_until(house: House, stops: Stops, what: str, event: Any = EVENT) -> Published:
    """Publish an event and wait until its saga is about to take this action."""
    event_id = new_id()
    stop = stops.before(what, event_id)
    published = await publish(house, event, event_id)
    await stop.reached.wait()
    return published


def recovery_of(house: House, **limits: Any) -> Recovery:
    """Return a recovery with limits that differ from the worker's."""
    return Recovery(
        house.ready.client,
        house.database,
        house.catalog,
        task_queue=house.task_queue,
        limits=replace(Limits(grace=timedelta(0)), **limits),
    )


async def sweep(house: House, **limits: Any) -> Sweep:
    """Run one sweep."""
    return await recovery_of(house, **limits).sweep()


def done(swept: Sweep) -> dict[str, int]:
    """The non-zero counts of a sweep, by action."""
    return {action.value: number for action, number in swept.counts.items() if number}


async def is_visible(house: House, workflow_id: str) -> None:
    """Wait until the visibility store lists an execution that was closed abnormally."""

    async def known() -> bool:
        runs = closed_abnormally(
            house.client, house.catalog.orchestrators, house.task_queue, since=None, until=datetime.now(UTC)
        )
        return workflow_id in {run.workflow_id async for run in runs}

    await eventually(known, f"visibility knows of {workflow_id}")


async def belongs_to(house: House, **values: str) -> None:
    """Write which cluster, namespace or task queue the database belongs to."""
    async with house.database.transaction() as connection:
        await connection.execute(update(saga_meta).values(**values))


@dataclass
class Pause:
    """Stops the first sweep that reaches a point."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


def pause_at(point: str, monkeypatch: pytest.MonkeyPatch) -> Pause:
    """Stop the first sweep that reaches `before undo`, `after undo`, `before ensure` or `after ensure`."""
    pause = Pause()
    when, _, what = point.partition(" ")
    module: Any = stalled_sagas if what == "undo" else sweeping
    name = "undo_if_still_owned" if what == "undo" else "ensure_own_execution"
    original: Callable[..., Awaitable[Any]] = getattr(module, name)

    async def paced(*args: Any, **options: Any) -> Any:
        if when == "before":
            await pause()
        result = await original(*args, **options)
        if when == "after":
            await pause()
        return result

    monkeypatch.setattr(module, name, paced)
    return pause


POINTS = ["before undo", "after undo", "before ensure", "after ensure"]


def manager_of(house: House, **settings: Any) -> Manager:
    """Return a manager with other settings."""
    return Manager(Settings(task_queue=house.task_queue, **settings), catalog=house.catalog)
