"""Faults on the way back: at a compensation, or of who undoes."""

import asyncio

from orchestrator.protocol.commands import STUCK_AFTER, Phase
from orchestrator.testing.conformance.faults import fault, is_undone, was_done
from orchestrator.testing.conformance.injection import Gone, Injected, ReplyLost
from orchestrator.testing.conformance.scenario import Stage


@fault(
    "undone twice",
    "two drivers undo the step at once: it is undone once",
    is_undone,
    was_done,
)
async def undone_twice(stage: Stage) -> None:
    """The compare-and-set lets one of them through."""
    stage.ending = "taken back"
    gone = stage.injection()
    gone.raises(f"after {stage.here}", Gone())
    await stage.dies(gone)

    one, two = stage.injection(), stage.injection()
    gate = one.stops(f"inside undo {stage.number}")
    first = stage.start(stage.undo(one))
    await stage.until_stopped(gate, first)
    second = stage.start(stage.undo(two))
    await stage.until_still(second)
    stage.must(stage.is_outside or not second.done(), "the second did not wait for the first one's open compensation")
    gate.opened.set()
    await asyncio.gather(first, second)

    inside = f"inside undo {stage.number}"
    stage.must(stage.is_outside or inside not in two.passed, "the compensation ran twice")


@fault(
    "compensation fails once",
    "the compensation fails after writing: it is retried, and the step is undone once",
    is_undone,
    was_done,
)
async def compensation_fails_once(stage: Stage) -> None:
    """The failed attempt leaves the step done."""
    stage.ending = "taken back"
    one = stage.injection()
    one.raises(f"inside undo {stage.number}", Injected("for now"))

    await (await stage.turned_back(one))

    stage.must(one.passed.count(f"inside undo {stage.number}") == 2, "the compensation was not tried again")


@fault(
    "compensation fails until stuck",
    f"the compensation fails {STUCK_AFTER} times, the saga is marked as stuck, and a later attempt undoes the step",
    is_undone,
    was_done,
)
async def compensation_fails_until_stuck(stage: Stage) -> None:
    """Stuck is something to look at, and no end."""
    stage.ending = "taken back"
    one = stage.injection()
    shown: list[int | None] = []

    async def look() -> None:
        if one.passed.count(f"before undo {stage.number}") == STUCK_AFTER + 1:
            shown.append((await stage.saga_row()).stuck_step)

    one.raises(f"inside undo {stage.number}", Injected("for long"), times=STUCK_AFTER)
    one.act(f"before undo {stage.number}", look, "is looked at")

    await (await stage.turned_back(one))

    stage.must(one.hits[f"inside undo {stage.number}"] == STUCK_AFTER, "the compensation did not fail so often")
    stage.must(shown == [stage.number], "the saga did not show as stuck")


@fault(
    "compensation loses its reply",
    "the compensation is committed but its reply is lost: the retry changes nothing",
    is_undone,
    was_done,
)
async def compensation_loses_its_reply(stage: Stage) -> None:
    """The step is undone already."""
    stage.ending = "taken back"
    one = stage.injection()
    one.raises(f"after undo {stage.number}", ReplyLost())

    await (await stage.turned_back(one))

    stage.must(one.passed.count(f"before undo {stage.number}") == 2, "the compensation was not sent again")
    stage.must(one.passed.count(f"inside undo {stage.number}") == 1, "the compensation ran twice")


@fault(
    "undoer dies",
    "the driver dies inside the compensation, before its commit: another driver undoes the rest",
    is_undone,
    was_done,
)
async def undoer_dies(stage: Stage) -> None:
    """What was decided stays decided."""
    stage.ending = "taken back"
    one = stage.injection()
    one.raises(f"inside undo {stage.number}", Gone())
    undoing = await stage.turned_back(one)
    gone = False
    try:
        await undoing
    except Gone:
        gone = True
    stage.must(gone, "the undoing driver did not die")

    outcome = await stage.drive()

    stage.must(outcome.phase is Phase.CANCELLED, f"the saga was to be cancelled and ended as {outcome.phase}")


@fault(
    "cancelled while undoing",
    "a person cancels while the step is being undone: the undo continues to its end",
    is_undone,
    was_done,
)
async def cancelled_while_undoing(stage: Stage) -> None:
    """Undoing is not interrupted."""
    stage.ending = "taken back"
    one = stage.injection()
    gate = one.stops(f"inside undo {stage.number}")
    undoing = await stage.turned_back(one)
    await stage.until_stopped(gate, undoing)

    undoing.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await undoing
