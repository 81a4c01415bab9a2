"""Faults while a saga is undone: a compensation fails, or the driver that undoes the saga dies or is cancelled."""

import asyncio

from orchestrator.protocol.commands import STUCK_AFTER, Phase
from orchestrator.testing.conformance.faults import fault, has_compensation, succeeds_without_fault
from orchestrator.testing.conformance.injection import DriverDied, Injected, ReplyLost
from orchestrator.testing.conformance.scenario import Scenario


@fault(
    "undone twice",
    "two drivers undo the step at the same time: it is undone once",
    has_compensation,
    succeeds_without_fault,
)
async def undone_twice(scenario: Scenario) -> None:
    """The compare-and-set on the step's state lets only one of them through."""
    scenario.ending = "undone"
    died = scenario.injection()
    died.raise_at(f"after {scenario.work}", DriverDied())
    await scenario.drive_until_it_dies(died)

    inside = f"inside undo {scenario.number}"
    first, gate = await scenario.undo_to(inside)
    injection = scenario.injection()
    second = scenario.start(scenario.undo(injection))
    await scenario.wait_until_done_or_blocked(second)
    scenario.require(
        scenario.is_external or not second.done(), "the second driver did not wait for the open compensation"
    )
    gate.opened.set()
    await asyncio.gather(first, second)

    scenario.require(scenario.is_external or inside not in injection.passed, "the compensation ran twice")


@fault(
    "compensation fails once",
    "the compensation fails after writing: it is retried, and the step is undone once",
    has_compensation,
    succeeds_without_fault,
)
async def compensation_fails_once(scenario: Scenario) -> None:
    """After the failed attempt the step is still done."""
    scenario.ending = "undone"
    injection = scenario.injection()
    injection.raise_at(f"inside undo {scenario.number}", Injected("fails once"))

    await (await scenario.cancel_after_step(injection))

    attempts = injection.passed.count(f"inside undo {scenario.number}")
    scenario.require(attempts == 2, "the compensation was not retried")


@fault(
    "compensation fails until stuck",
    f"the compensation fails {STUCK_AFTER} times, the saga is marked as stuck, and a later attempt undoes the step",
    has_compensation,
    succeeds_without_fault,
)
async def compensation_fails_until_stuck(scenario: Scenario) -> None:
    """The mark does not end the saga: its compensation is retried."""
    scenario.ending = "undone"
    injection = scenario.injection()
    point = f"inside undo {scenario.number}"
    injection.raise_at(point, Injected("fails for a while"), times=STUCK_AFTER)
    marked = scenario.watch_stuck_step(injection, f"undo {scenario.number}")

    await (await scenario.cancel_after_step(injection))

    scenario.require_stuck(injection, point, marked)


@fault(
    "compensation loses its reply",
    "the compensation is committed but its reply is lost: the retry changes nothing",
    has_compensation,
    succeeds_without_fault,
)
async def compensation_loses_its_reply(scenario: Scenario) -> None:
    """The retry finds that the step is already undone."""
    scenario.ending = "undone"
    injection = scenario.injection()
    injection.raise_at(f"after undo {scenario.number}", ReplyLost())

    await (await scenario.cancel_after_step(injection))

    sent = injection.passed.count(f"before undo {scenario.number}")
    scenario.require(sent == 2, "the compensation was not sent again")
    scenario.require(injection.passed.count(f"inside undo {scenario.number}") == 1, "the compensation ran twice")


@fault(
    "driver dies while undoing",
    "the driver dies inside the compensation, before its commit: another driver undoes the rest",
    has_compensation,
    succeeds_without_fault,
)
async def driver_dies_while_undoing(scenario: Scenario) -> None:
    """The decision to cancel the saga is kept."""
    scenario.ending = "undone"
    injection = scenario.injection()
    injection.raise_at(f"inside undo {scenario.number}", DriverDied())
    undoing = await scenario.cancel_after_step(injection)
    has_died = False
    try:
        await undoing
    except DriverDied:
        has_died = True
    scenario.require(has_died, "the undoing driver did not die")

    outcome = await scenario.drive()

    scenario.require(outcome.phase is Phase.CANCELLED, f"the saga must be cancelled, but ended as {outcome.phase}")


@fault(
    "cancelled while undoing",
    "a user cancels the saga while the step is being undone: the undo continues to its end",
    has_compensation,
    succeeds_without_fault,
)
async def cancelled_while_undoing(scenario: Scenario) -> None:
    """A cancellation does not interrupt an undo."""
    scenario.ending = "undone"
    injection = scenario.injection()
    gate = injection.pause_at(f"inside undo {scenario.number}")
    undoing = await scenario.cancel_after_step(injection)
    await scenario.wait_until_paused(gate, undoing)

    undoing.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await undoing
