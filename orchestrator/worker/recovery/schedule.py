"""The schedule by which recovery runs: one a task queue, set up by whichever worker comes first, kept as it is set."""

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
"""A recovery that was missed is not made up for: the next one sees all that it would have seen."""


def schedule_id(task_queue: str) -> str:
    """`orchestrator-recovery/<task queue>`, the same for its workflow."""
    return f"orchestrator-recovery/{task_queue}"


async def ensure_schedule(client: Client, task_queue: str, interval: timedelta) -> None:
    """Create, change or remove the schedule, so that it is as it should be. One that a person paused stays paused.

    Args:
        client: a connection.
        task_queue: the workers'.
        interval: from one recovery to the next; zero for none.

    Raises:
        temporalio.service.RPCError: the server does not let us.
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
            await handle.update(lambda known: _changed(known, wanted))


def _schedule(task_queue: str, interval: timedelta) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            SagaRecovery.run,
            id=schedule_id(task_queue),
            task_queue=task_queue,
            static_summary="looks for sagas that nobody drives any more, and sees that they end",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=interval)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCHUP),
    )


def _differs(known: Schedule, wanted: Schedule) -> bool:
    was, is_ = known.action, wanted.action
    same_action = (
        isinstance(was, ScheduleActionStartWorkflow)
        and isinstance(is_, ScheduleActionStartWorkflow)
        and (was.workflow, was.id, was.task_queue) == (is_.workflow, is_.id, is_.task_queue)
    )
    same_times = [one.every for one in known.spec.intervals] == [one.every for one in wanted.spec.intervals]
    return not (same_action and same_times and known.policy == wanted.policy)


def _changed(known: ScheduleUpdateInput, wanted: Schedule) -> ScheduleUpdate:
    wanted.state = known.description.schedule.state
    return ScheduleUpdate(wanted)
