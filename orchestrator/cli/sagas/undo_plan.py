"""The plan of an undo, which shows the compensations in order, with the arguments recorded in the steps' rows.

The plan is only shown. What is undone is decided when the undo begins, which may include steps that end after the plan
was made.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cli.terminal.output import Output
from orchestrator.definition.atomic import ATOMIC, calls_in
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import StepState
from orchestrator.store.queries.sagas import SagaView, StepView
from orchestrator.store.saga.step_rows import describe_call


@dataclass(frozen=True, slots=True)
class PlannedUndo:
    """One step that would be undone."""

    number: int
    call: str
    """The step's call, such as `account.withdraw(...)`."""
    compensation: str | None
    """The call that undoes the step, such as `account.put_back(...)`, or None if this code declares no compensation."""
    is_asked_first: bool
    """Whether the service is asked first, because it is not known if the call happened."""

    @property
    def shown(self) -> str:
        """The planned undo in one line."""
        if self.compensation is None:
            return f"{self.call}, with the compensation in its worker's code; the code here declares none"
        asked = ", if the call happened; its service is asked first" if self.is_asked_first else ""
        return f"{self.compensation}{asked}"

    def as_json(self) -> dict[str, Any]:
        """Return the planned undo as a JSON object, for programs."""
        return {
            "number": self.number,
            "step": self.call,
            "compensation": self.compensation,
            "asked_about_first": self.is_asked_first,
        }


def plan_undo(saga: SagaView | None, catalog: Catalog | None) -> Sequence[PlannedUndo]:
    """Return the steps that would be undone, the last one first. Queries, refused and settled steps are left out."""
    steps = () if saga is None else saga.steps
    return [plan_step_undo(step, catalog) for step in reversed(steps) if step.is_to_undo]


def plan_step_undo(step: StepView, catalog: Catalog | None) -> PlannedUndo:
    """Return how one step would be undone."""
    arguments: dict[str, Any] = json.loads(step.arguments)
    if step.operation == ATOMIC.name:
        return _plan_atomic_undo(step, arguments, catalog)
    operation = None if catalog is None else catalog.operations.get(step.operation)
    undo = None if operation is None else operation.undo
    if operation is not None:  # Show the arguments in their declared order; the stored JSON is sorted by name.
        arguments = {name: arguments[name] for name in operation.signature.parameters if name in arguments}
    compensation = None
    if undo is not None:
        known = arguments | ({} if step.result is None else {"result": json.loads(step.result)})
        compensation = describe_call(undo.name, {name: known.get(name) for name in undo.wants})
    return PlannedUndo(
        step.number, describe_call(step.operation, arguments), compensation, step.state is StepState.ATTEMPTING
    )


def _plan_atomic_undo(step: StepView, arguments: dict[str, Any], catalog: Catalog | None) -> PlannedUndo:
    """Return how an atomic step would be undone: by the compensations of its calls, the last call first."""
    calls = calls_in(arguments)
    results: list[Any] = [None] * len(calls) if step.result is None else json.loads(step.result)
    compensations: list[str] = []
    for (name, call_arguments), result in reversed(list(zip(calls, results, strict=True))):
        operation = None if catalog is None else catalog.operations.get(name)
        if operation is None:
            return PlannedUndo(step.number, describe_call(step.operation, arguments), None, False)
        if operation.undo is not None:
            known = call_arguments | {"result": result}
            wanted = {parameter: known.get(parameter) for parameter in operation.undo.wants}
            compensations.append(describe_call(operation.undo.name, wanted))
    return PlannedUndo(step.number, describe_call(step.operation, arguments), ", then ".join(compensations), False)


def print_undo_plan(plan: Sequence[PlannedUndo], output: Output) -> None:
    """Print a plan, one line per step."""
    for planned in plan:
        output.line(f"  step {planned.number}: {planned.shown}")
