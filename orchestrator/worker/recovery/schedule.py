"""The schedule that runs recovery. Each task queue has one, and every worker that starts creates or updates it."""

from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.workflow.system.recovery import SagaRecovery

_CATCHUP = timedelta(seconds=10)
"""How late a missed recovery may still start. Older ones are not caught up, because the next one finds the same
sagas."""


def schedule_id(task_queue: str) -> str:
    """Return `orchestrator-recovery/<task queue>`, the id of the schedule and of its workflow."""
    return f"orchestrator-recovery/{task_queue}"


async def ensure_schedule(client: Client, task_queue: str, interval: timedelta) -> None:
    """Create, update or delete the schedule to match the interval. A paused schedule stays paused.

    Args:
        client: a connection to Temporal.
        task_queue: the task queue of the workers.
        interval: the time from one recovery to the next, or zero for no schedule.

    Raises:
        temporalio.service.RPCError: the server does not allow it.
    """
    handle = client.get_schedule_handle(schedule_id(task_queue))
    if not interval:
        try:
            await handle.delete()
        except RPCError as fault:
            if fault.status is not RPCStatusCode.NOT_FOUND:
                raise
        return
    wanted = _schedule(task_queue, interval)
    try:
        await client.create_schedule(schedule_id(task_queue), wanted)
    except ScheduleAlreadyRunningError:
        if _differs((await handle.describe()).schedule, wanted):
            await handle.update(lambda known: _update(known, wanted))


def _schedule(task_queue: str, interval: timedelta) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            SagaRecovery.run,
            id=schedule_id(task_queue),
            task_queue=task_queue,
            static_summary="finds sagas without a live driver, and resumes or undoes them",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCHUP),
    )


def _differs(known: Schedule, wanted: Schedule) -> bool:
    old, new = known.action, wanted.action
    same_action = (
        isinstance(old, ScheduleActionStartWorkflow)
        and isinstance(new, ScheduleActionStartWorkflow)
        and (old.workflow, old.id, old.task_queue) == (new.workflow, new.id, new.task_queue)
    )
    same_times = [spec.every for spec in known.spec.intervals] == [spec.every for spec in wanted.spec.intervals]
    return not (same_action and same_times and known.policy == wanted.policy)


def _update(known: ScheduleUpdateInput, wanted: Schedule) -> ScheduleUpdate:
    wanted.state = known.description.schedule.state
    return ScheduleUpdate(wanted)
