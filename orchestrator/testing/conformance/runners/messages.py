"""Faults of messages: events and steps that arrive twice, late, or with something else in them."""

import asyncio

from orchestrator.drive.driver import EventIdReused
from orchestrator.protocol.commands import Decided, Phase, Reused, StepDone, UndoCommand, Undone
from orchestrator.testing.conformance.faults import (
    NotApplicable,
    can_turn_back_before,
    fault,
    is_undone,
    runs_an_operation,
    was_done,
)
from orchestrator.testing.conformance.other_content import with_other_content
from orchestrator.testing.conformance.scenario import LATER, Stage
from orchestrator.testing.example import EVENT_TIME


@fault(
    "delivered twice",
    "the same event arrives again while the step is open and after the saga's end: everything happens once",
    runs_an_operation,
    was_done,
)
async def delivered_twice(stage: Stage) -> None:
    """The second envelope has a later time, as one of a client that sends again."""
    first, gate = await stage.stopped_at(f"inside {stage.here}")
    second = stage.start(stage.drive(time=EVENT_TIME + LATER))
    await stage.until_still(second)
    stage.must(stage.is_outside or not second.done(), "the second delivery did not wait for the first one's open step")
    gate.opened.set()
    await asyncio.gather(first, second)

    await stage.drive(time=EVENT_TIME + 2 * LATER)


@fault(
    "same id, other content",
    "another event arrives under the id of an open saga's event: it is rejected and changes nothing",
    runs_an_operation,
)
async def same_id_other_content(stage: Stage) -> None:
    """The first content counts."""
    other = stage.example.other
    if other is None or other == stage.example.event:
        other = with_other_content(stage.example.event)
    if other is None:
        raise NotApplicable("an event of this type has no other content")
    first, gate = await stage.stopped_at(f"after {stage.here}")

    for _ in range(2):  # while the saga is under way, and when it has ended
        try:
            outcome = await stage.driver(stage.injection(), other).drive()
            stage.must(False, f"an event with another's id came to an outcome: {outcome.phase}")
        except EventIdReused:
            gate.opened.set()
            await first


@fault(
    "repeated request",
    "DTM's first anomaly: a step is sent again while open and after its end: its effect happens once",
    runs_an_operation,
    was_done,
)
async def repeated_request(stage: Stage) -> None:
    """Each of the three gets the same answer."""
    one = stage.injection()
    driving, gate = await stage.stopped_at(f"inside {stage.here}", one)
    command = one.commands[stage.number]
    again = stage.start(stage.store.run(command, LATER, attempt=2))
    await stage.until_still(again)
    stage.must(stage.is_outside or not again.done(), "the repeated request did not wait for the open one")

    gate.opened.set()
    await driving

    first = one.replies[stage.number]
    stage.must(isinstance(first, StepDone), f"the step was answered with {first!r}")
    answer = await again
    stage.must(
        answer == first or isinstance(answer, Decided), f"the repeated request got {answer!r}, the first got {first!r}"
    )
    late = await stage.store.run(command, LATER, attempt=3)
    stage.must(late == first or isinstance(late, Decided), f"the late request got {late!r}")


@fault(
    "empty compensation",
    "DTM's second anomaly: a compensation arrives for a step that never ran: nothing changes",
    is_undone,
    was_done,
)
async def empty_compensation(stage: Stage) -> None:
    """The saga is undoing, so the guard alone would let it through."""
    stage.ending = "taken back"
    late = stage.injection()
    driving, gate = await stage.stopped_at(f"before {stage.here}", late)
    one = stage.injection()
    finishing = one.stops("before finish")
    undoing = stage.start(stage.undo(one))
    await stage.until_stopped(finishing, undoing)
    command = late.commands[stage.number]

    answer = await stage.store.undo(
        UndoCommand(
            saga=command.saga, number=command.number, operation=command.operation, event_time=command.event_time
        ),
        stage.catalog.compensation_of(command.operation),
    )

    stage.must(isinstance(answer, Undone), f"the compensation of a step that never was got {answer!r}")
    finishing.opened.set()
    await undoing
    gate.opened.set()
    await driving


@fault(
    "hanging",
    "DTM's third anomaly: a step's attempt arrives after the saga was undone: the guard stops it",
    runs_an_operation,
    can_turn_back_before,
)
async def hanging(stage: Stage) -> None:
    """Once while the saga is undoing, once when it has ended."""
    stage.ending = "taken back"
    late = stage.injection()
    driving, gate = await stage.stopped_at(f"before {stage.here}", late)
    one = stage.injection()
    finishing = one.stops("before finish")
    undoing = stage.start(stage.undo(one))
    await stage.until_stopped(finishing, undoing)

    while_undoing = await stage.store.run(late.commands[stage.number], LATER)
    stage.must(isinstance(while_undoing, Decided), f"a late attempt was let in: {while_undoing!r}")
    finishing.opened.set()
    await undoing

    gate.opened.set()
    outcome = await driving
    stage.must(outcome.phase is Phase.CANCELLED, f"the late driver came to {outcome.phase}")
    stage.must(not isinstance(late.replies.get(stage.number), (StepDone, Reused)), "the late attempt was let in")


@fault(
    "reset",
    "after the saga's end, the execution is reset to before the step: it runs again, and nothing is repeated",
    runs_an_operation,
)
async def reset(stage: Stage) -> None:
    """It remembers the steps before, and sends this one anew."""
    one = stage.injection()
    await stage.drive(one)

    again = stage.injection()
    again.answers({number: reply for number, reply in one.replies.items() if number < stage.number})
    await stage.drive(again)

    stage.must(f"before {stage.here}" in again.passed, "the reset execution did not send the step again")
