"""Schedules of month resets: one a user, on the 1st, where the user lives."""

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
from orchestrator.protocol.reserved_names import SCHEDULED_WORKFLOW
from orchestrator.workflow.system.scheduled import ScheduledEvent
from starter.process import GaveUp

_PREFIX = "month-reset/"
# At four as well: some clocks go forward at midnight, and then there is none. The second asks for the same event, which
# is done once.
_FIRST_OF_MONTH = ScheduleCalendarSpec(day_of_month=[ScheduleRange(1)], hour=[ScheduleRange(0), ScheduleRange(4)])
_CATCHUP = timedelta(days=365)
"""A first of the month that was missed is made up for, in order, when the server is back."""


@dataclass(frozen=True, slots=True)
class MonthSchedule:
    """One user's schedule as the server has it."""

    user: str
    time_zone: str
    next_at: datetime | None
    """None if it is paused."""


async def make_schedule(client: Client, user: UserId, time_zone: str, task_queue: str) -> bool:
    """Create a user's schedule, or give it another time zone; True if it is new.

    Raises:
        GaveUp: there is no such time zone.
    """
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as fault:
        raise GaveUp(f"There is no time zone {time_zone!r}: take a name such as Europe/Kyiv.") from fault
    wanted = _schedule(user, time_zone, task_queue)
    try:
        await client.create_schedule(f"{_PREFIX}{user}", wanted)
    except ScheduleAlreadyRunningError:
        handle = client.get_schedule_handle(f"{_PREFIX}{user}")
        await handle.update(lambda known: ScheduleUpdate(_kept(known.description.schedule, wanted)))
        return False
    return True


async def schedules(client: Client) -> list[MonthSchedule]:
    """All there are, by user."""
    found: list[MonthSchedule] = []
    async for one in await client.list_schedules():
        if one.id.startswith(_PREFIX):
            described = await client.get_schedule_handle(one.id).describe()
            next_times = described.info.next_action_times
            found.append(
                MonthSchedule(
                    user=one.id.removeprefix(_PREFIX),
                    time_zone=described.schedule.spec.time_zone_name or "UTC",
                    next_at=next_times[0] if next_times and not described.schedule.state.paused else None,
                )
            )
    return sorted(found, key=lambda one: one.user)


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


def _kept(known: Schedule, wanted: Schedule) -> Schedule:
    wanted.state = known.state  # one that a person paused stays paused
    return wanted
