"""Faults of several drivers at one saga, at each of its boundaries, and of other sagas in between."""

import asyncio

from orchestrator.protocol.commands import Phase
from orchestrator.testing.conformance.faults import fate_is_known, fault, runs_an_operation, was_done
from orchestrator.testing.conformance.scenario import OTHER_EVENT_ID, Stage


def _forward(ahead: str) -> None:
    @fault(
        f"second driver forward, {ahead} ahead",
        f"two drivers are about to do the same step, and the {ahead} continues: each step happens once",
        at_the_end=True,
    )
    async def second_driver_forward(stage: Stage) -> None:
        one, first_gate = await stage.stopped_at(f"before {stage.here}")
        two, second_gate = await stage.stopped_at(f"before {stage.here}")
        gates = (first_gate, second_gate) if ahead == "first" else (second_gate, first_gate)

        gates[0].opened.set()
        await (one if ahead == "first" else two)
        gates[1].opened.set()
        await asyncio.gather(one, two)


def _back(ahead: str) -> None:
    @fault(
        f"second driver back, {ahead} ahead",
        f"one driver is about to do the step, another has begun the undo, and the {ahead} continues: one outcome",
        at_the_end=True,
    )
    async def second_driver_back(stage: Stage) -> None:
        stage.ending = "taken back"
        forward, before_step = await stage.stopped_at(f"before {stage.here}")
        turning = stage.injection()
        turned = turning.stops("after turn")
        back = stage.start(stage.undo(turning))
        await stage.until_stopped(turned, back)

        first, second = (before_step, turned) if ahead == "first" else (turned, before_step)
        first.opened.set()
        await (forward if ahead == "first" else back)
        second.opened.set()
        await asyncio.gather(forward, back)


for _ahead in ("first", "second"):
    _forward(_ahead)
for _ahead in ("first", "second"):
    _back(_ahead)


@fault(
    "second driver back, step open",
    "a second driver begins the undo while the step is open: it waits for the step, then undoes it",
    runs_an_operation,
    fate_is_known,
    was_done,
)
async def second_driver_back_step_open(stage: Stage) -> None:
    """The turn sees the step, since it waited for it.

    PostgreSQL may hand the row to the finish before it wakes the turn, so the finish comes after the turn here.
    """
    stage.ending = "taken back"
    one = stage.injection()
    finish = one.stops("before finish")
    forward, gate = await stage.stopped_at(f"inside {stage.here}", one)
    back = stage.start(stage.undo())
    await stage.until_still(back)
    stage.must(stage.is_outside or not back.done(), "the turn did not wait for the open step")

    gate.opened.set()
    await back
    finish.opened.set()
    await forward


@fault(
    "others between",
    "another event's saga completes between do and undo: its effects remain, and no others",
    needs_other=True,
)
async def others_between(stage: Stage) -> None:
    """Sagas are not isolated, so the other may be refused because of the first one: then nothing stands.

    One that takes a lock that the first one holds does nothing before that has ended.
    """
    stage.ending = "taken back"
    one, _ = await stage.stopped_at(f"after {stage.here}")
    injection = stage.injection("the other")
    coming = stage.start(stage.driver(injection, stage.example.other, event_id=OTHER_EVENT_ID).drive())
    await stage.until_done_or_in_line(injection, coming)

    one.cancel()
    outcome = await one
    other = await coming

    if other.phase is not Phase.COMPLETED:
        stage.declared = "the other saga is refused beside this one: name one that completes, Example(..., other=event)"
        return
    by_other, by_both = stage.reference.by_other, stage.reference.by_both
    stage.must(by_other is not None and by_both, "the other saga did not run by itself")
    if outcome.phase is Phase.COMPLETED:
        stage.expected = [("as after both, one after the other", both) for both in by_both]
    else:
        stage.expected = [("as after the other alone", by_other)]
