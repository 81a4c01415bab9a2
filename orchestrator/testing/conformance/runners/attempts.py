"""Faults of one driver on its way forward: at a step's attempt, or of the driver itself."""

import asyncio

from orchestrator.errors import Refused
from orchestrator.protocol.commands import STUCK_AFTER, Phase
from orchestrator.store.recovery import UndoAnswer, recorded_sagas, undo_if_still_owned
from orchestrator.testing.conformance.faults import (
    NotApplicable,
    can_be_refused,
    fate_is_known,
    fault,
    is_outside,
    is_past_pivot,
    runs_an_operation,
    was_done,
)
from orchestrator.testing.conformance.injection import ATTEMPTS, Gone, Injected, ReplyLost
from orchestrator.testing.conformance.scenario import Stage, Wrong

REFUSED = "conformance.refused"


@fault(
    "nothing happens",
    "a second run without a fault leaves exactly the same rows as the first",
    at_steps=False,
    at_the_end=True,
)
async def nothing_happens(stage: Stage) -> None:
    """What differs between two clean runs comes from a clock, from chance, or from outside."""
    await stage.drive()


@fault(
    "refused",
    "the operation refuses after writing its effect: everything is undone",
    runs_an_operation,
    can_be_refused,
    was_done,
)
async def refused(stage: Stage) -> None:
    """Recorded on the step's row, unless somebody did the step first."""
    one = stage.injection()
    # A refusal from outside says that nothing happened there.
    point = stage.failing
    one.raises(point, Refused(REFUSED, "by the test kit"))

    outcome = await stage.drive(one)

    stage.must(one.hits[point] == 1, "the operation did not come to its end")
    if outcome.phase is Phase.COMPLETED:
        raise NotApplicable("handle goes on after this refusal: add an example whose event takes that way")
    stage.must(outcome.phase is Phase.FAILED, f"the saga ended as {outcome.phase}")
    stage.ending = "taken back"


@fault(
    "transient error",
    "the operation fails once after writing its effect: it is retried, and the effect happens once",
    runs_an_operation,
    was_done,
)
async def transient_error(stage: Stage) -> None:
    """The failed attempt leaves nothing."""
    one = stage.injection()
    one.raises(stage.failing, Injected("for now"))

    await stage.drive(one)

    stage.must(one.passed.count(stage.failing) == 2, "the operation was not tried again")
    row = await stage.step_row()
    stage.must(row is not None and row.attempts >= 2, "the step's row does not count the second attempt")


@fault(
    "permanent error",
    "the operation fails at each attempt: the engine stops retrying it and undoes everything",
    runs_an_operation,
    fate_is_known,
    can_be_refused,
    was_done,
)
async def permanent_error(stage: Stage) -> None:
    """Not one of the attempts leaves anything."""
    one = stage.injection()
    one.raises(stage.failing, Injected("for good"), times=None)
    stage.ending = "taken back"

    outcome = await stage.drive(one)

    stage.must(one.hits[stage.failing] == ATTEMPTS, f"the operation was not tried {ATTEMPTS} times")
    stage.must(outcome.error_code == "operation.failed", f"the saga ended with {outcome.error_code}")


@fault(
    "fails past the pivot",
    f"past the pivot the operation fails {STUCK_AFTER} times, the saga is marked as stuck, and a later one succeeds",
    runs_an_operation,
    is_past_pivot,
)
async def fails_past_the_pivot(stage: Stage) -> None:
    """There is no way back, so it is tried until it is done."""
    one = stage.injection()
    shown: list[int | None] = []

    async def look() -> None:
        if one.passed.count(f"before {stage.here}") == STUCK_AFTER + 1:
            shown.append((await stage.saga_row()).stuck_step)

    one.raises(stage.failing, Injected("for long"), times=STUCK_AFTER)
    one.act(f"before {stage.here}", look, "is looked at")

    await stage.drive(one)

    stage.must(one.hits[stage.failing] == STUCK_AFTER, "the operation did not fail so often")
    stage.must(shown == [stage.number], "the saga did not show as stuck")


@fault(
    "dies before commit",
    "the driver dies inside the step, before the commit of its effect: another driver continues",
    runs_an_operation,
    was_done,
)
async def dies_before_commit(stage: Stage) -> None:
    """The rolled back attempt leaves nothing."""
    one = stage.injection()
    one.raises(f"inside {stage.here}", Gone())

    await stage.dies(one)
    await stage.drive()

    stage.must(one.hits[f"inside {stage.here}"], "the driver did not die inside the step")


@fault(
    "dies after commit",
    "the driver dies after the step's commit: another driver continues from the first line",
)
async def dies_after_commit(stage: Stage) -> None:
    """The step answers what it recorded."""
    one = stage.injection()
    one.raises(f"after {stage.here}", Gone())

    await stage.dies(one)
    await stage.drive()

    stage.must(one.hits[f"after {stage.here}"], "the driver did not die after the step")


@fault(
    "loses its reply",
    "the step is committed but its reply is lost: the next attempt returns the recorded result",
    runs_an_operation,
)
async def loses_its_reply(stage: Stage) -> None:
    """The driver lives and sends the step again."""
    one = stage.injection()
    one.raises(f"after {stage.here}", ReplyLost())

    await stage.drive(one)

    stage.must(one.passed.count(f"before {stage.here}") == 2, "the step was not sent again")


@fault(
    "call loses its reply",
    "an external call happens but is not recorded: it is verified, or sent again with the same key",
    is_outside,
    was_done,
)
async def call_loses_its_reply(stage: Stage) -> None:
    """The other side must not do it twice."""
    one = stage.injection()
    one.raises(f"inside {stage.here}", Injected("between the call and its record"))

    await stage.drive(one)

    keys = [key for work, key in one.keys if work == stage.here]
    stage.must(one.passed.count(f"before {stage.here}") == 2, "the step was not attempted again")
    if len(set(keys)) != 1:
        raise Wrong([f"the call was sent again with another key: {keys}"])
    if stage.step is not None and stage.step.is_verified and len(keys) != 1:
        raise Wrong([f"the call was sent {len(keys)} times, as its verification did not find the first one"])


@fault(
    "outlives its deadline",
    "the attempt times out while its transaction is open, and commits after that: its effect is undone",
    runs_an_operation,
    fate_is_known,
    can_be_refused,
    was_done,
)
async def outlives_its_deadline(stage: Stage) -> None:
    """The turn waits for the open step, and then sees it."""
    one = stage.injection()
    gate = one.gives_up(stage.number)
    stage.ending = "taken back"

    driving = stage.start(stage.drive(one))
    await stage.until_stopped(gate, driving)
    await stage.until_still(driving)
    gate.opened.set()
    await driving
    late = await asyncio.gather(*([one.late] if one.late else []), return_exceptions=True)

    stage.must(late, "no attempt was given up")
    # Outside an attempt has a time limit of its own, and may be cut off.
    stage.must(stage.is_outside or not isinstance(late[0], BaseException), f"the late attempt failed: {late}")


def _cancelled(where: str) -> None:
    inside = (runs_an_operation, fate_is_known, was_done) if where == "inside" else ()

    @fault(
        f"cancelled {where}",
        f"a person cancels {where} the step: completed steps are undone, or past the pivot the saga completes",
        *inside,
    )
    async def cancelled(stage: Stage) -> None:
        one = stage.injection()
        driving, _ = await stage.stopped_at(f"{where} {stage.here}", one)
        stage.ending = "taken back"

        driving.cancel()
        outcome = await driving

        stage.must(one.hits[f"{where} {stage.here}"] == 1, f"the driver did not come {where} the step")
        stage.must(outcome.phase is not Phase.FAILED, "a cancelled saga ended as failed")


def _terminated(where: str) -> None:
    inside = (runs_an_operation, fate_is_known, was_done) if where == "inside" else ()

    @fault(
        f"terminated {where}",
        f"the execution is terminated {where} the step: recovery undoes it, or past the pivot completes it",
        *inside,
    )
    async def terminated(stage: Stage) -> None:
        one = stage.injection()
        one.raises(f"{where} {stage.here}", Gone())
        await stage.dies(one)
        recorded = (await recorded_sagas(stage.database, [stage.saga_id])).get(stage.saga_id)
        if recorded is not None:
            # Of an event that no row tells of recovery knows that nobody took it: it is published again.
            stage.ending = "taken back"
            answer = await undo_if_still_owned(stage.databases, recorded, "terminated by the test kit")
            stage.must(answer is not UndoAnswer.OWNER_CHANGED, "recovery took the saga for somebody else's")
        await stage.drive()

        stage.must(one.hits[f"{where} {stage.here}"] == 1, f"the driver was not ended {where} the step")


for _where in ("before", "inside", "after"):
    _cancelled(_where)
for _where in ("before", "inside", "after"):
    _terminated(_where)
