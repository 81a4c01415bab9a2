"""What undoing a saga would do: its compensations in order, with the arguments that stand in the rows.

Only shown: what is undone is decided by the turn, which sees the steps that end after this was read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cli.terminal.output import Output
from orchestrator.definition.atomic import ATOMIC, calls_in
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import StepState, text_of
from orchestrator.store.queries.sagas import SagaView, StepView


@dataclass(frozen=True, slots=True)
class PlannedUndo:
    """One step that would be undone."""

    number: int
    call: str
    """What was done, e.g. `account.withdraw(...)`."""
    compensation: str | None
    """What undoes it, e.g. `account.put_back(...)`; None if this code knows of none."""
    is_asked_first: bool
    """Whether it happened is not known: that is found out first."""

    @property
    def shown(self) -> str:
        """In one line."""
        if self.compensation is None:
            return f"{self.call}, by the compensation that its worker knows; this code has none"
        asked = ", if it happened: asked about first" if self.is_asked_first else ""
        return f"{self.compensation}{asked}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "number": self.number,
            "step": self.call,
            "compensation": self.compensation,
            "asked_about_first": self.is_asked_first,
        }


def undoing_of(saga: SagaView | None, catalog: Catalog | None) -> Sequence[PlannedUndo]:
    """What would be undone, the last step first. Queries, refused steps and those settled before are left out."""
    steps = () if saga is None else saga.steps
    return [planned(step, catalog) for step in reversed(steps) if step.is_to_undo]


def planned(step: StepView, catalog: Catalog | None) -> PlannedUndo:
    """How one step would be undone."""
    arguments: dict[str, Any] = json.loads(step.arguments)
    if step.operation == ATOMIC.name:
        return _planned_together(step, arguments, catalog)
    operation = None if catalog is None else catalog.operations.get(step.operation)
    undo = None if operation is None else operation.undo
    if operation is not None:  # as its author wrote them, not as JSON sorts them
        arguments = {name: arguments[name] for name in operation.signature.parameters if name in arguments}
    compensation = None
    if undo is not None:
        known = arguments | ({} if step.result is None else {"result": json.loads(step.result)})
        compensation = text_of(undo.name, {name: known.get(name) for name in undo.wants})
    return PlannedUndo(
        step.number, text_of(step.operation, arguments), compensation, step.state is StepState.ATTEMPTING
    )


def _planned_together(step: StepView, arguments: dict[str, Any], catalog: Catalog | None) -> PlannedUndo:
    """An atomic step: the compensations of its calls, the last first."""
    calls = calls_in(arguments)
    results: list[Any] = [None] * len(calls) if step.result is None else json.loads(step.result)
    shown: list[str] = []
    for (name, given), result in reversed(list(zip(calls, results, strict=True))):
        operation = None if catalog is None else catalog.operations.get(name)
        if operation is None:
            return PlannedUndo(step.number, text_of(step.operation, arguments), None, False)
        if operation.undo is not None:
            known = given | {"result": result}
            shown.append(text_of(operation.undo.name, {name: known.get(name) for name in operation.undo.wants}))
    return PlannedUndo(step.number, text_of(step.operation, arguments), ", then ".join(shown), False)


def show_undoing(plan: Sequence[PlannedUndo], output: Output) -> None:
    """One line a step."""
    for one in plan:
        output.say(f"  step {one.number}: {one.shown}")
