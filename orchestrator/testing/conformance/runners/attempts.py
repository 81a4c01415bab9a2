"""Faults of a single driver while the saga goes forward: a step's attempt fails, or the driver is ended."""

import asyncio
from collections.abc import Mapping, Sequence

from orchestrator.errors import Refused
from orchestrator.protocol.commands import STUCK_AFTER, Phase
from orchestrator.store.recovery import UndoAnswer, recorded_sagas, undo_if_still_owned
from orchestrator.testing.conformance.faults import (
    Condition,
    NotApplicable,
    can_be_refused,
    can_be_verified,
    fault,
    is_external,
    is_past_pivot,
    runs_an_operation,
    succeeds_without_fault,
)
from orchestrator.testing.conformance.injection import ATTEMPTS, DriverDied, Injected, ReplyLost
from orchestrator.testing.conformance.scenario import CheckFailed, Scenario

REFUSED = "conformance.refused"


@fault(
    "no fault",
    "a second run without a fault leaves exactly the same rows as the first",
    at_steps=False,
    at_the_end=True,
)
async def no_fault(scenario: Scenario) -> None:
    """Two clean runs differ only if a value comes from a clock, from a random number or from outside."""
    await scenario.drive()


@fault(
    "refused",
    "the operation refuses after writing its effect: everything is undone",
    runs_an_operation,
    can_be_refused,
    succeeds_without_fault,
)
async def refused(scenario: Scenario) -> None:
    """An external operation refuses before its call, because its refusal says that the service did nothing."""
    injection = scenario.injection()
    point = scenario.failure_point
    injection.raise_at(point, Refused(REFUSED, "by the test kit"))

    outcome = await scenario.drive(injection)

    scenario.require(injection.hits[point] == 1, "the operation did not reach its end")
    if outcome.phase is Phase.COMPLETED:
        raise NotApplicable("handle continues after this refusal: add an example whose event takes that path")
    scenario.require(outcome.phase is Phase.FAILED, f"the saga ended as {outcome.phase}")
    scenario.ending = "undone"


@fault(
    "transient error",
    "the operation fails once after writing its effect: it is retried, and the effect happens once",
    runs_an_operation,
    succeeds_without_fault,
)
async def transient_error(scenario: Scenario) -> None:
    """The failed attempt leaves no effect."""
    injection = scenario.injection()
    injection.raise_at(scenario.failure_point, Injected("fails once"))

    await scenario.drive(injection)

    scenario.require(injection.passed.count(scenario.failure_point) == 2, "the operation was not retried")
    row = await scenario.step_row()
    scenario.require(row is not None and row.attempts >= 2, "the step's row does not count the second attempt")


@fault(
    "permanent error",
    "the operation fails at each attempt: the engine stops retrying it and undoes everything",
    runs_an_operation,
    can_be_verified,
    can_be_refused,
    succeeds_without_fault,
)
async def permanent_error(scenario: Scenario) -> None:
    """None of the attempts leaves an effect."""
    injection = scenario.injection()
    injection.raise_at(scenario.failure_point, Injected("always fails"), times=None)
    scenario.ending = "undone"

    outcome = await scenario.drive(injection)

    attempts = injection.hits[scenario.failure_point]
    scenario.require(attempts == ATTEMPTS, f"the operation was attempted {attempts} times instead of {ATTEMPTS}")
    scenario.require(outcome.error_code == "operation.failed", f"the saga ended with {outcome.error_code}")


@fault(
    "fails past the pivot",
    f"past the pivot the operation fails {STUCK_AFTER} times, the saga is marked as stuck, and a later one succeeds",
    runs_an_operation,
    is_past_pivot,
)
async def fails_past_the_pivot(scenario: Scenario) -> None:
    """The saga can no longer be undone, so the step is retried until it succeeds."""
    injection = scenario.injection()
    injection.raise_at(scenario.failure_point, Injected("fails for a while"), times=STUCK_AFTER)
    marked = scenario.watch_stuck_step(injection, scenario.work)

    await scenario.drive(injection)

    scenario.require_stuck(injection, scenario.failure_point, marked)


@fault(
    "driver dies before commit",
    "the driver dies inside the step, before the commit of its effect: another driver continues",
    runs_an_operation,
    succeeds_without_fault,
)
async def driver_dies_before_commit(scenario: Scenario) -> None:
    """The attempt is rolled back and leaves no effect."""
    await _die_and_drive_again(scenario, "inside")


@fault(
    "driver dies after commit",
    "the driver dies after the step's commit: another driver runs the saga again from its first line",
)
async def driver_dies_after_commit(scenario: Scenario) -> None:
    """The step returns its recorded result."""
    await _die_and_drive_again(scenario, "after")


async def _die_and_drive_again(scenario: Scenario, where: str) -> None:
    injection = scenario.injection()
    injection.raise_at(f"{where} {scenario.work}", DriverDied())

    await scenario.drive_until_it_dies(injection)
    await scenario.drive()

    scenario.require(injection.hits[f"{where} {scenario.work}"], f"the driver did not die {where} the step")


@fault(
    "step loses its reply",
    "the step is committed but its reply is lost: the next attempt returns the recorded result",
    runs_an_operation,
)
async def step_loses_its_reply(scenario: Scenario) -> None:
    """The driver is alive and sends the step again."""
    injection = scenario.injection()
    injection.raise_at(f"after {scenario.work}", ReplyLost())

    await scenario.drive(injection)

    scenario.require(injection.passed.count(f"before {scenario.work}") == 2, "the step was not sent again")


@fault(
    "external call loses its reply",
    "an external call happens but is not recorded: it is verified, or sent again with the same key",
    is_external,
    succeeds_without_fault,
)
async def external_call_loses_its_reply(scenario: Scenario) -> None:
    """The service must not perform the call twice."""
    injection = scenario.injection()
    injection.raise_at(f"inside {scenario.work}", Injected("between the call and its record"))

    await scenario.drive(injection)

    keys = [key for work, key in injection.keys if work == scenario.work]
    scenario.require(injection.passed.count(f"before {scenario.work}") == 2, "the step was not attempted again")
    if len(set(keys)) != 1:
        raise CheckFailed([f"the call was sent again with another key: {keys}"])
    if scenario.step is not None and scenario.step.is_verified and len(keys) != 1:
        raise CheckFailed([f"the call was sent {len(keys)} times, because its verification did not find the first one"])


@fault(
    "attempt outlives its deadline",
    "the attempt times out while its transaction is open, and commits after that: its effect is undone",
    runs_an_operation,
    can_be_verified,
    can_be_refused,
    succeeds_without_fault,
)
async def attempt_outlives_its_deadline(scenario: Scenario) -> None:
    """The undo begins only when the open step has ended, and includes that step."""
    injection = scenario.injection()
    gate = injection.abandon_attempt(scenario.number)
    scenario.ending = "undone"

    driving = scenario.start(scenario.drive(injection))
    await scenario.wait_until_paused(gate, driving)
    await scenario.wait_until_done_or_blocked(driving)
    gate.opened.set()
    await driving
    late_attempts = [injection.late_attempt] if injection.late_attempt else []
    late = await asyncio.gather(*late_attempts, return_exceptions=True)

    scenario.require(late, "no attempt was abandoned")
    # An external call has its own time limit, so its late attempt may be cut off.
    scenario.require(scenario.is_external or not isinstance(late[0], BaseException), f"the late attempt failed: {late}")


_CONDITIONS: Mapping[str, Sequence[Condition]] = {
    "before": (),
    "inside": (runs_an_operation, can_be_verified, succeeds_without_fault),
    "after": (),
}


def _cancelled(where: str) -> None:
    @fault(
        f"cancelled {where} step",
        f"a user cancels the saga {where} the step: completed steps are undone, or past the pivot the saga completes",
        *_CONDITIONS[where],
    )
    async def cancelled(scenario: Scenario) -> None:
        injection = scenario.injection()
        driving, _ = await scenario.drive_to(f"{where} {scenario.work}", injection)
        scenario.ending = "undone"

        driving.cancel()
        outcome = await driving

        scenario.require(
            injection.hits[f"{where} {scenario.work}"] == 1, f"the driver did not reach the point {where} the step"
        )
        scenario.require(outcome.phase is not Phase.FAILED, "a cancelled saga ended as failed")


def _terminated(where: str) -> None:
    @fault(
        f"terminated {where} step",
        f"the execution is terminated {where} the step: recovery undoes it, or past the pivot completes it",
        *_CONDITIONS[where],
    )
    async def terminated(scenario: Scenario) -> None:
        injection = scenario.injection()
        injection.raise_at(f"{where} {scenario.work}", DriverDied())
        await scenario.drive_until_it_dies(injection)
        recorded = (await recorded_sagas(scenario.database, [scenario.saga_id])).get(scenario.saga_id)
        if recorded is not None:
            # Without a row, recovery concludes that no execution accepted the event, and publishes it again.
            scenario.ending = "undone"
            answer = await undo_if_still_owned(scenario.databases, recorded, "terminated by the test kit")
            scenario.require(
                answer is not UndoAnswer.OWNER_CHANGED, "recovery found that another execution owns the saga"
            )
        await scenario.drive()

        scenario.require(injection.hits[f"{where} {scenario.work}"] == 1, f"the driver was not ended {where} the step")


for _where in _CONDITIONS:
    _cancelled(_where)
for _where in _CONDITIONS:
    _terminated(_where)
