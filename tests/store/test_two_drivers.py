"""Two drivers of one saga, stopped at every pair of points, leave the effects of exactly one outcome.

This is the engine's central promise. One driver goes forward and the other undoes. Each is stopped before, inside or
after one of its transactions, and then either of them continues first.
"""

import asyncio

import pytest

from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox, saga_step
from tests.cast import Script
from tests.cast_events import CoinsMoveRequested
from tests.house import Holdings, rows
from tests.orchestrators import CoinsMove
from tests.store.pacing import Pacer, driver_of, stop_inside_operations, until_stopped

STEPS = (1, 2, 3)
FORWARD_POINTS = [
    *(f"{where} step {number}" for number in STEPS for where in ("before", "inside", "after")),
    "before finish",
    "after finish",
]
BACK_POINTS = [
    "before begin undo",
    "after begin undo",
    *(f"{where} undo {number}" for number in reversed(STEPS) for where in ("before", "inside", "after")),
    "before finish",
    "after finish",
]
EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


@pytest.fixture(autouse=True)
def points_inside() -> None:
    """Add a point inside every operation."""
    stop_inside_operations()


async def check_one_outcome(database: Database, before: Holdings, outcomes: list[Outcome], case: str) -> Outcome:
    """Check that all drivers report one outcome, that its effects are the only ones, and that it is sent once."""
    first = outcomes[0]
    assert all(outcome == first for outcome in outcomes), case
    expected = before.moved("a", "b", 10) if first.phase is Phase.COMPLETED else before
    assert expected == await Holdings.of(database), f"{case}: {first.phase}"
    sent = [row for row in await rows(database, saga_outbox) if row.event_id == first.event["id"]]
    assert len(sent) == 1, case
    return first


@pytest.mark.parametrize("forward_point", FORWARD_POINTS)
async def test_one_driver_goes_forward_while_another_undoes(stocked: Database, forward_point: str) -> None:
    """Tested at each pair of points, with either driver continuing first."""
    phases: set[Phase] = set()
    for back_point in BACK_POINTS:
        for forward_first in (True, False):
            case = f"forward stopped {forward_point}, back stopped {back_point}, forward first: {forward_first}"
            before = await Holdings.of(stocked)
            event_id = f"{forward_point} {back_point} {forward_first}".replace(" ", "-")
            forward_pacer, back_pacer = Pacer(forward_point), Pacer(back_point)

            forward = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, event_id, forward_pacer).drive())
            await until_stopped(stocked, forward_pacer, forward)
            undoing = driver_of(stocked, CoinsMove, EVENT, event_id, back_pacer)
            back = asyncio.create_task(undoing.undo(Phase.CANCELLED, "saga.cancelled", "by a test"))
            await until_stopped(stocked, back_pacer, back)
            first, second = (forward_pacer, back_pacer) if forward_first else (back_pacer, forward_pacer)
            first.go_on.set()
            first_task = forward if forward_first else back
            await until_done_or_waiting(stocked, first_task)
            second.go_on.set()
            async with asyncio.timeout(20):
                outcomes = list(await asyncio.gather(forward, back))

            phases.add((await check_one_outcome(stocked, before, outcomes, case)).phase)

    late = forward_point in ("after finish",)
    assert phases == ({Phase.COMPLETED} if late else phases)
    assert Phase.CANCELLED in phases or late


async def until_done_or_waiting(database: Database, task: "asyncio.Task[Outcome]") -> None:
    """Let a driver run as far as it can while the other is stopped."""
    await until_stopped(database, Pacer(), task)


@pytest.mark.parametrize("point", FORWARD_POINTS)
async def test_two_drivers_going_forward_do_each_step_once(stocked: Database, point: str) -> None:
    """One driver is stopped at a point while the other runs to the end."""
    before = await Holdings.of(stocked)
    pacer = Pacer(point)
    first = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "twice", pacer).drive())
    await until_stopped(stocked, pacer, first)

    second = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "twice").drive())
    await until_stopped(stocked, Pacer(), second)
    pacer.go_on.set()
    async with asyncio.timeout(20):
        outcomes = list(await asyncio.gather(first, second))

    outcome = await check_one_outcome(stocked, before, outcomes, point)
    assert outcome.phase is Phase.COMPLETED
    assert [step.attempts for step in await rows(stocked, saga_step)] == [1, 1, 1]


@pytest.mark.parametrize("point", BACK_POINTS)
async def test_two_undoing_drivers_undo_each_step_once(stocked: Database, point: str) -> None:
    """Both undo the same three steps; one is stopped at a point while the other runs to the end."""
    before = await Holdings.of(stocked)
    stop = Pacer("before finish")
    forward = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "back", stop).drive())
    await until_stopped(stocked, stop, forward)
    pacer = Pacer(point)
    first = asyncio.create_task(
        driver_of(stocked, CoinsMove, EVENT, "back", pacer).undo(Phase.CANCELLED, "saga.cancelled", "by a test")
    )
    await until_stopped(stocked, pacer, first)

    second = asyncio.create_task(
        driver_of(stocked, CoinsMove, EVENT, "back").undo(Phase.FAILED, "other.reason", "by another test")
    )
    await until_stopped(stocked, Pacer(), second)
    pacer.go_on.set()
    async with asyncio.timeout(20):
        outcomes = list(await asyncio.gather(first, second))
    stop.go_on.set()
    outcomes.append(await forward)

    outcome = await check_one_outcome(stocked, before, outcomes, point)
    assert outcome.phase is (Phase.FAILED if point == "before begin undo" else Phase.CANCELLED)
    undone = [name for name in Script.runs if name in ("tear_up", "take_out", "give_back")]
    assert undone == ["tear_up", "take_out", "give_back"]
