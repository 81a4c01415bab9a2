"""Many events are published at once to a real server; each is accepted, whether gathered or by `publish_many`."""

import asyncio
from collections.abc import Callable
from time import monotonic

import pytest

from tests.cast_events import NothingRequested
from tests.house import House

EVENT = NothingRequested(refuse=False)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.exhaustive)])
async def test_gathered_publishes_are_all_accepted(
    idle: House, count: int, record_property: Callable[[str, object], None]
) -> None:
    began = monotonic()
    gathered = await asyncio.gather(*(idle.bus.publish(EVENT) for _ in range(count)), return_exceptions=True)
    gather_seconds = monotonic() - began

    began = monotonic()
    many = await idle.bus.publish_many([EVENT] * count)
    record_property("gather / publish_many", gather_seconds / (monotonic() - began))

    assert [type(result) for result in gathered] == [list] * count
    assert len(many) == count
