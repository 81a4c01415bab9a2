"""Scheduled month resets on a real server: which month is over, when the schedule fires, and catching up."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from temporalio.client import Client, ScheduleBackfill, ScheduleOverlapPolicy

from events.identity import UserId
from events.snapshot import MonthResetRequested
from orchestrator import Catalog
from orchestrator.cli.embedded.script import GaveUp
from starter.schedules import make_schedule, schedules
from tests.app.running import RunningBooks
from tests.conftest import Kind
from tests.house import eventually, new_id

OLENA = UserId("olena")


@pytest.fixture
def kind() -> Kind:
    """SQLite only, because schedules belong to the server."""
    return "sqlite"


@pytest.mark.parametrize(
    ("zone", "at", "month"),
    [
        ("UTC", "2026-02-01T00:00:00", "2026-01"),
        ("Pacific/Kiritimati", "2026-01-31T10:00:00", "2026-01"),  # UTC+14: the 1st already
        ("Pacific/Pago_Pago", "2026-02-01T10:59:00", "2025-12"),  # UTC-11: still the 31st
        ("Pacific/Pago_Pago", "2026-02-01T11:00:00", "2026-01"),
        ("Europe/Kyiv", "2026-03-31T21:00:00", "2026-03"),  # summer time since the 29th
        ("Europe/Kyiv", "2026-10-31T22:00:00", "2026-10"),  # winter time since the 25th
        ("America/Asuncion", "2023-10-01T04:00:00", "2023-09"),  # the night that had no midnight
        ("Europe/Kyiv", "2025-12-31T22:00:00", "2025-12"),
    ],
)
def test_the_scheduled_event_is_for_the_month_that_is_over_in_the_users_time_zone(
    zone: str, at: str, month: str
) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)

    event_id, event = MonthResetRequested.scheduled(moment, {"user_id": "olena", "time_zone": zone})

    assert (event_id, event.month) == (f"month-reset-olena-{month}", month)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York", "Europe/Kyiv"])
async def test_it_fires_at_midnight_on_the_first_of_each_month_in_the_users_time_zone(
    client: Client, zone: str
) -> None:
    user = UserId(f"user-{new_id()}"[:60])
    assert await make_schedule(client, user, zone, "nobody")
    handle = client.get_schedule_handle(f"month-reset/{user}")
    try:
        times = [moment.astimezone(ZoneInfo(zone)) for moment in (await handle.describe()).info.next_action_times]

        assert {(moment.day, moment.hour, moment.minute) for moment in times} == {(1, 0, 0), (1, 4, 0)}
        assert (await make_schedule(client, user, "UTC", "nobody")) is False
        [shown] = [schedule for schedule in await schedules(client) if schedule.user == user]
        assert shown.time_zone == "UTC"
    finally:
        await handle.delete()


async def test_an_unknown_time_zone_gets_no_schedule(client: Client) -> None:
    with pytest.raises(GaveUp, match="no time zone"):
        await make_schedule(client, OLENA, "Europe/Atlantis", "nobody")


async def test_missed_months_are_caught_up_in_order_and_once(running: RunningBooks) -> None:
    house = running.house
    await make_schedule(house.client, OLENA, "Europe/Kyiv", house.task_queue)
    handle = house.client.get_schedule_handle("month-reset/olena")
    try:
        await handle.backfill(
            ScheduleBackfill(
                start_at=datetime(2026, 1, 15, tzinfo=UTC),
                end_at=datetime(2026, 3, 15, tzinfo=UTC),
                overlap=ScheduleOverlapPolicy.BUFFER_ALL,
            )
        )

        async def both_months() -> bool:
            months = (await running.snapshot())["month_snapshot"]
            return {key[1] for key in months} == {"2026-01", "2026-02"}

        await eventually(both_months, "both months are recorded", within=60)
        assert (await running.row("user_metadata", "olena"))["last_reset_month"] == "2026-02"
        sagas = [saga.event_id for saga in await house.sagas()]
        assert sorted(sagas) == ["month-reset-olena-2026-01", "month-reset-olena-2026-02"]
    finally:
        await handle.delete()


def test_only_an_event_with_a_scheduled_method_can_be_scheduled() -> None:
    catalog = Catalog.discover(["events", "activities", "workflows"])
    scheduled = [name for name, event in catalog.events.items() if "scheduled" in vars(event)]

    assert scheduled == ["MONTH_RESET_REQUESTED"]
