"""Schedules of month resets: one per user, on the 1st of each month in the user's time zone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleUpdate,
)

from events.identity import UserId
from events.snapshot import MonthResetRequested
from orchestrator.cli.embedded.script import GaveUp
from orchestrator.protocol.reserved_names import SCHEDULED_WORKFLOW
from orchestrator.workflow.system.scheduled import ScheduledEvent

_PREFIX = "month-reset/"
# At four as well, because a day has no midnight if the clocks go forward then. The second run publishes the same event,
# which is handled once.
_FIRST_OF_MONTH = ScheduleCalendarSpec(day_of_month=[ScheduleRange(1)], hour=[ScheduleRange(0), ScheduleRange(4)])
_CATCHUP = timedelta(days=365)
"""How long the server makes up for missed runs, in order, after an outage."""


@dataclass(frozen=True, slots=True)
class MonthSchedule:
    """One user's schedule on the server."""

    user: str
    time_zone: str
    next_at: datetime | None
    """The next run; None if the schedule is paused."""


async def make_schedule(client: Client, user: UserId, time_zone: str, task_queue: str) -> bool:
    """Create a user's schedule, or change its time zone. Return whether it is new.

    Raises:
        GaveUp: there is no such time zone.
    """
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as fault:
        raise GaveUp(f"There is no time zone {time_zone!r}; use a name such as Europe/Kyiv.") from fault
    schedule = _schedule(user, time_zone, task_queue)
    try:
        await client.create_schedule(f"{_PREFIX}{user}", schedule)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(f"{_PREFIX}{user}")
        await handle.update(lambda current: ScheduleUpdate(_keep_state(current.description.schedule, schedule)))
        return False
    return True


async def schedules(client: Client) -> list[MonthSchedule]:
    """Return all schedules, ordered by user."""
    month_schedules: list[MonthSchedule] = []
    async for listed in await client.list_schedules():
        if listed.id.startswith(_PREFIX):
            described = await client.get_schedule_handle(listed.id).describe()
            next_times = described.info.next_action_times
            month_schedules.append(
                MonthSchedule(
                    user=listed.id.removeprefix(_PREFIX),
                    time_zone=described.schedule.spec.time_zone_name or "UTC",
                    next_at=next_times[0] if next_times and not described.schedule.state.paused else None,
                )
            )
    return sorted(month_schedules, key=lambda schedule: schedule.user)


def _schedule(user: UserId, time_zone: str, task_queue: str) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            SCHEDULED_WORKFLOW,
            ScheduledEvent(
                event_type=MonthResetRequested.type_name(), arguments={"user_id": user, "time_zone": time_zone}
            ),
            id=f"{_PREFIX}{user}",
            task_queue=task_queue,
            static_summary=f"resets the month of {user}",
        ),
        spec=ScheduleSpec(
            calendars=[_FIRST_OF_MONTH],
            time_zone_name=time_zone,
        ),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.BUFFER_ALL, catchup_window=_CATCHUP),
    )


def _keep_state(current: Schedule, schedule: Schedule) -> Schedule:
    schedule.state = current.state  # A schedule that a person has paused stays paused.
    return schedule
