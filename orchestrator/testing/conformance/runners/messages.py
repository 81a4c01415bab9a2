"""Faults of messages: events and steps that arrive twice, late, or with other content."""

import asyncio
from collections.abc import Iterator
from typing import Any, TypeVar

from orchestrator.drive.driver import EventIdReused
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Decided, Outcome, Phase, Reused, StepDone, UndoCommand, Undone
from orchestrator.protocol.messages.envelope import UnreadableEvent, canonical
from orchestrator.protocol.messages.unwrapping import parse
from orchestrator.testing.conformance.faults import (
    NotApplicable,
    can_be_undone_before,
    fault,
    has_compensation,
    runs_an_operation,
    succeeds_without_fault,
)
from orchestrator.testing.conformance.injection import Gate, Injection
from orchestrator.testing.conformance.scenario import LATER, Scenario
from orchestrator.testing.example import EVENT_TIME

E = TypeVar("E", bound=DomainEvent)


@fault(
    "delivered twice",
    "the same event arrives again while the step is open and after the saga's end: everything happens once",
    runs_an_operation,
    succeeds_without_fault,
)
async def delivered_twice(scenario: Scenario) -> None:
    """The second envelope has a later time, as if a client had sent the event again."""
    first, gate = await scenario.drive_to(f"inside {scenario.work}")
    second = scenario.start(scenario.drive(time=EVENT_TIME + LATER))
    await scenario.wait_until_done_or_blocked(second)
    scenario.require(
        scenario.is_external or not second.done(), "the second delivery did not wait for the first one's open step"
    )
    gate.opened.set()
    await asyncio.gather(first, second)

    await scenario.drive(time=EVENT_TIME + 2 * LATER)


@fault(
    "same id, other content",
    "another event arrives under the id of an open saga's event: it is rejected and changes nothing",
    runs_an_operation,
)
async def same_id_other_content(scenario: Scenario) -> None:
    """The content that arrived first is the one that counts."""
    other = scenario.example.other
    if other is None or other == scenario.example.event:
        other = with_other_content(scenario.example.event)
    if other is None:
        raise NotApplicable("no value of this event can be changed")
    first, gate = await scenario.drive_to(f"after {scenario.work}")

    for _ in range(2):  # while the saga is open, and after it has ended
        try:
            outcome = await scenario.driver(scenario.injection(), other).drive()
            scenario.require(False, f"an event with the id of another one ended as {outcome.phase}")
        except EventIdReused:
            gate.opened.set()
            await first


@fault(
    "repeated request",
    "DTM's first anomaly: a step is sent again while open and after its end: its effect happens once",
    runs_an_operation,
    succeeds_without_fault,
)
async def repeated_request(scenario: Scenario) -> None:
    """Each of the three requests gets the same reply."""
    injection = scenario.injection()
    driving, gate = await scenario.drive_to(f"inside {scenario.work}", injection)
    command = injection.commands[scenario.number]
    repeated = scenario.start(scenario.store.run(command, LATER, attempt=2))
    await scenario.wait_until_done_or_blocked(repeated)
    scenario.require(scenario.is_external or not repeated.done(), "the repeated request did not wait for the open one")

    gate.opened.set()
    await driving

    first = injection.replies[scenario.number]
    scenario.require(isinstance(first, StepDone), f"the step got the reply {first!r}")
    reply = await repeated
    scenario.require(
        reply == first or isinstance(reply, Decided), f"the repeated request got {reply!r}, the first got {first!r}"
    )
    late = await scenario.store.run(command, LATER, attempt=3)
    scenario.require(late == first or isinstance(late, Decided), f"the late request got {late!r}")


@fault(
    "empty compensation",
    "DTM's second anomaly: a compensation arrives for a step that never ran: nothing changes",
    has_compensation,
    succeeds_without_fault,
)
async def empty_compensation(scenario: Scenario) -> None:
    """The saga is undoing, so the guard alone would admit the compensation."""
    late = scenario.injection()
    driving, gate, undoing, finish = await _undo_before_step(scenario, late)
    command = late.commands[scenario.number]

    reply = await scenario.store.undo(
        UndoCommand(
            saga=command.saga, number=command.number, operation=command.operation, event_time=command.event_time
        ),
        scenario.catalog.compensation_of(command.operation),
    )

    scenario.require(isinstance(reply, Undone), f"the compensation of a step that never ran got {reply!r}")
    finish.opened.set()
    await undoing
    gate.opened.set()
    await driving


@fault(
    "hanging",
    "DTM's third anomaly: a step's attempt arrives after the saga was undone: the guard stops it",
    runs_an_operation,
    can_be_undone_before,
)
async def hanging(scenario: Scenario) -> None:
    """The attempt arrives once while the saga is undoing, and once after it has ended."""
    late = scenario.injection()
    driving, gate, undoing, finish = await _undo_before_step(scenario, late)

    while_undoing = await scenario.store.run(late.commands[scenario.number], LATER)
    scenario.require(isinstance(while_undoing, Decided), f"a late attempt was admitted: {while_undoing!r}")
    finish.opened.set()
    await undoing

    gate.opened.set()
    outcome = await driving
    scenario.require(outcome.phase is Phase.CANCELLED, f"the late driver ended with {outcome.phase}")
    scenario.require(
        not isinstance(late.replies.get(scenario.number), (StepDone, Reused)), "the late attempt was admitted"
    )


@fault(
    "reset",
    "after the saga's end, the execution is reset to before the step: it runs again, and nothing is repeated",
    runs_an_operation,
)
async def reset(scenario: Scenario) -> None:
    """The execution remembers the replies of earlier steps, and sends this step again."""
    injection = scenario.injection()
    await scenario.drive(injection)

    again = scenario.injection()
    again.replay({number: reply for number, reply in injection.replies.items() if number < scenario.number})
    await scenario.drive(again)

    scenario.require(f"before {scenario.work}" in again.passed, "the reset execution did not send the step again")


async def _undo_before_step(
    scenario: Scenario, late: Injection
) -> tuple[asyncio.Task[Outcome], Gate, asyncio.Task[Outcome], Gate]:
    """Pause one driver before the step, and another, which undoes the saga, before its finish."""
    scenario.ending = "undone"
    driving, gate = await scenario.drive_to(f"before {scenario.work}", late)
    undoing, finish = await scenario.undo_to("before finish")
    return driving, gate, undoing, finish


def with_other_content(event: E) -> E | None:
    """Return a valid event of the same type with one changed value, or None if no change is valid."""
    for changed in _changes(event.model_dump(mode="json")):
        try:
            other = parse(canonical(changed), type(event))
        except UnreadableEvent:
            continue
        if other != event:
            return other
    return None


def _changes(value: Any) -> Iterator[Any]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, value * 2)
        case str():
            yield from (f"{value}x", value[:-1])
        case list():
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
            for index, inner in enumerate(items):
                for changed in _changes(inner):
                    yield [*items[:index], changed, *items[index + 1 :]]
        case dict():
            fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
            for name, inner in fields.items():
                for changed in _changes(inner):
                    yield {**fields, name: changed}
        case _:
            return
