"""Faults of two drivers of one saga at each of its transactions, and of another saga that runs in between."""

import asyncio
from collections.abc import Sequence

from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.testing.conformance.faults import (
    can_be_verified,
    fault,
    runs_an_operation,
    succeeds_without_fault,
)
from orchestrator.testing.conformance.injection import Gate
from orchestrator.testing.conformance.scenario import OTHER_EVENT_ID, Scenario


def _second_driver(continues: str) -> None:
    @fault(
        f"second driver, {continues} continues",
        f"two drivers are about to do the same step, and the {continues} continues: each step happens once",
        at_the_end=True,
    )
    async def second_driver(scenario: Scenario) -> None:
        drivers = [await scenario.drive_to(f"before {scenario.work}") for _ in range(2)]
        await _release(drivers if continues == "first" else drivers[::-1])


def _second_driver_undoes(continues: str) -> None:
    @fault(
        f"second driver undoes, {continues} continues",
        f"one driver is about to do the step, another has begun the undo, and the {continues} continues: one outcome",
        at_the_end=True,
    )
    async def second_driver_undoes(scenario: Scenario) -> None:
        scenario.ending = "undone"
        forward = await scenario.drive_to(f"before {scenario.work}")
        undoing = await scenario.undo_to("after begin undo")
        await _release([forward, undoing] if continues == "first" else [undoing, forward])


async def _release(drivers: Sequence[tuple[asyncio.Task[Outcome], Gate]]) -> None:
    """Let each driver run to its end before the next one continues."""
    for driver, gate in drivers:
        gate.opened.set()
        await driver


for _continues in ("first", "second"):
    _second_driver(_continues)
for _continues in ("first", "second"):
    _second_driver_undoes(_continues)


@fault(
    "second driver undoes, step open",
    "a second driver begins the undo while the step is open: it waits for the step, then undoes it",
    runs_an_operation,
    can_be_verified,
    succeeds_without_fault,
)
async def second_driver_undoes_step_open(scenario: Scenario) -> None:
    """The beginning of the undo sees the step, because it waited for it.

    PostgreSQL may give the row's lock to the finish first, so the finish is held back until the undo has ended.
    """
    scenario.ending = "undone"
    injection = scenario.injection()
    finish = injection.pause_at("before finish")
    forward, gate = await scenario.drive_to(f"inside {scenario.work}", injection)
    undoing = scenario.start(scenario.undo())
    await scenario.wait_until_done_or_blocked(undoing)
    scenario.require(scenario.is_external or not undoing.done(), "the undo did not wait for the open step")

    gate.opened.set()
    await undoing
    finish.opened.set()
    await forward


@fault(
    "another saga between",
    "another event's saga completes between do and undo: its effects remain, and no others",
    needs_other=True,
)
async def another_saga_between(scenario: Scenario) -> None:
    """Sagas are not isolated, so the other saga may be refused because of the first; then the cell proves nothing.

    If both sagas need the same lock, the other one does nothing until the first has ended.
    """
    scenario.ending = "undone"
    driving, _ = await scenario.drive_to(f"after {scenario.work}")
    injection = scenario.injection("the other")
    driver = scenario.driver(injection, scenario.example.other, event_id=OTHER_EVENT_ID)
    driving_other = scenario.start(driver.drive())
    await scenario.wait_until_done_or_queued(injection, driving_other)

    driving.cancel()
    outcome = await driving
    other = await driving_other

    if other.phase is not Phase.COMPLETED:
        scenario.declared = (
            "the other saga is refused while this one runs: name an event whose saga completes, "
            "Example(..., other=event)"
        )
        return
    by_other, by_both = scenario.reference.by_other, scenario.reference.by_both
    scenario.require(by_other is not None and by_both, "the other saga did not run by itself")
    if outcome.phase is Phase.COMPLETED:
        scenario.expected = [("as after both, one after the other", both) for both in by_both]
    else:
        scenario.expected = [("as after the other alone", by_other)]
