"""Moves executions and schedules from another task queue to this one, after the task queue was renamed.

An execution stays on its task queue for life, and only a worker there could end or continue it. So each is terminated
with a reason that recovery knows. Nothing is undone: the saga continues in a new execution on this task queue, and its
unprocessed messages are published again from the history. If a move is interrupted, the next one completes it.
"""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowExecution,
)
from temporalio.common import RawValue, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.executions.renewal import cancel_if_running
from orchestrator.protocol.reserved_names import (
    PUBLISH_EVENT_WORKFLOW,
    RECOVERY_WORKFLOW,
    SCHEDULED_WORKFLOW,
)
from orchestrator.worker.recovery.closed_runs import ClosedRun, closed_abnormally
from orchestrator.worker.recovery.execution_status import MOVED, ExecutionStatus, status_of_execution, why_terminated
from orchestrator.worker.recovery.limits import SweepState
from orchestrator.worker.recovery.schedule import schedule_id
from orchestrator.workflow.system.recovery import Action

_PUBLISHING = (PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW)
"""The engine's own workflows that may hold an event that has not been published yet."""

_NO_END = datetime(2200, 1, 1, tzinfo=UTC)
"""A close time later than that of any execution, so that the search has no upper end and depends on no clock."""

Settle = Callable[[SweepState, ClosedRun], Awaitable[bool]]


async def move_from(sweep: SweepState, old: str, settle: Settle) -> None:
    """Move executions and schedules from another task queue to the sweep's own.

    Args:
        sweep: the sweep, whose ceiling also limits the move.
        old: the task queue to move from.
        settle: settles the messages of a run that was cut off; never raises.

    Raises:
        temporalio.service.RPCError: the server does not answer.
    """
    await _move_schedules(sweep, old)
    # Settle first the runs that an interrupted move has terminated.
    cut_off = closed_abnormally(sweep.client, sweep.catalog.orchestrators, old, since=None, until=_NO_END)
    async for closed in cut_off:
        if sweep.is_full:
            return
        await settle(sweep, await _with_reason(sweep.client, closed))
    types = ", ".join(json.dumps(name) for name in (*sweep.catalog.orchestrators, *_PUBLISHING))
    query = f'ExecutionStatus = "Running" AND TaskQueue = {json.dumps(old)} AND WorkflowType IN ({types})'
    async for run in sweep.client.list_workflows(query):
        if sweep.is_full:
            return
        if run.workflow_type in _PUBLISHING:
            await _start_again(sweep, run)
        else:
            await _move(sweep, run, old, settle)


async def _move(sweep: SweepState, run: WorkflowExecution, old: str, settle: Settle) -> None:
    status = await status_of_execution(sweep.client, run.id, run.run_id)
    if not status.runs:
        return
    sweep.note(Action.RESUME, run.id, f"it runs on the task queue {old!r}")
    if sweep.dry_run or not await _terminate(sweep, status):
        return
    closed = await status_of_execution(sweep.client, run.id, run.run_id)
    await settle(sweep, ClosedRun(run.workflow_type, run.id, run.run_id, closed.closed_at, was_moved=True))
    if status.is_cancel_requested:
        await cancel_if_running(sweep.client, run.id, reason="its cancel was requested before it was moved")


async def _terminate(sweep: SweepState, status: ExecutionStatus) -> bool:
    """Terminate a run. Return False if it has already ended."""
    handle = sweep.client.get_workflow_handle(status.workflow_id, run_id=status.run_id)
    try:
        await handle.terminate(reason=f"{MOVED}: {sweep.task_queue}")
    except RPCError as fault:
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


async def _with_reason(client: Client, run: ClosedRun) -> ClosedRun:
    ended = await status_of_execution(client, run.workflow_id, run.run_id)
    was_moved = ended.was_terminated and await why_terminated(client, ended) is None
    return ClosedRun(run.orchestrator, run.workflow_id, run.run_id, run.closed_at, was_moved=was_moved)


async def _start_again(sweep: SweepState, run: WorkflowExecution) -> None:
    """Start one of the engine's own workflows on this task queue, with a single request that also ends the old run."""
    sweep.note(Action.PUBLISH, run.id, f"it runs on the task queue {run.task_queue!r}")
    if sweep.dry_run:
        return
    handle = sweep.client.get_workflow_handle(run.id, run_id=run.run_id)
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            arguments = event.workflow_execution_started_event_attributes.input.payloads
            await sweep.client.start_workflow(
                run.workflow_type,
                args=[RawValue(payload) for payload in arguments],
                id=run.id,
                task_queue=sweep.task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
            )
        return


async def _move_schedules(sweep: SweepState, old: str) -> None:
    client = sweep.client
    known = {*sweep.catalog.orchestrators, *_PUBLISHING, RECOVERY_WORKFLOW}
    async for listed in await client.list_schedules():
        handle = client.get_schedule_handle(listed.id)
        action = (await handle.describe()).schedule.action
        if not isinstance(action, ScheduleActionStartWorkflow) or action.task_queue != old:
            continue
        if action.workflow not in known:
            continue
        sweep.note(Action.RESUME, listed.id, f"this schedule starts workflows on the task queue {old!r}")
        if sweep.dry_run:
            continue
        if listed.id == schedule_id(old):  # this task queue has its own recovery schedule
            await handle.delete()
            await _end_recovery(client, old)
        else:
            await handle.update(lambda schedule: _with_task_queue(schedule, sweep.task_queue))


async def _end_recovery(client: Client, old: str) -> None:
    async for run in client.list_workflows(
        f'ExecutionStatus = "Running" AND TaskQueue = {json.dumps(old)} AND WorkflowType = "{RECOVERY_WORKFLOW}"'
    ):
        try:
            await client.get_workflow_handle(run.id, run_id=run.run_id).terminate(reason=MOVED)
        except RPCError as fault:
            if fault.status is not RPCStatusCode.NOT_FOUND:
                raise


def _with_task_queue(known: ScheduleUpdateInput, task_queue: str) -> ScheduleUpdate:
    schedule = known.description.schedule
    if isinstance(schedule.action, ScheduleActionStartWorkflow):
        schedule.action.task_queue = task_queue
    return ScheduleUpdate(schedule)
