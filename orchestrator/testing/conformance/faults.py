"""The list of faults, each with a stable name, a one-line explanation, where it can occur, and the code that runs it.

"Repeated request", "empty compensation" and "hanging" are the three anomalies of DTM's sub-transaction barrier.
"""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.operation import Reversal
from orchestrator.testing.conformance.reference import Reference, ReferenceStep
from orchestrator.testing.conformance.scenario import RunFault, Scenario

Condition = Callable[[Reference, ReferenceStep | None], str | None]
"""Returns why a fault cannot occur at a step, or None if it can. Step None is the end of the saga."""


class NotApplicable(Exception):
    """Raised by a running fault that cannot occur at this step. The message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way in which something goes wrong."""

    name: str
    explains: str
    """One line that says what is injected and what the result must be."""
    run: RunFault
    conditions: tuple[Condition, ...] = ()
    at_steps: bool = True
    at_the_end: bool = False
    needs_other: bool = False
    """Whether the saga of another event runs at the same time."""

    def reason_against(self, reference: Reference, step: ReferenceStep | None) -> str | None:
        """Return why the fault cannot occur at this step, or None if it can."""
        reasons = (condition(reference, step) for condition in self.conditions)
        return next((reason for reason in reasons if reason is not None), None)


FAULTS: dict[str, Fault] = {}
"""The faults by name, in the order in which reports list them."""


def fault(
    name: str,
    explains: str,
    *conditions: Condition,
    at_steps: bool = True,
    at_the_end: bool = False,
    needs_other: bool = False,
) -> Callable[[RunFault], RunFault]:
    """Add the decorated function to the list of faults."""

    def add(run: RunFault) -> RunFault:
        FAULTS[name] = Fault(
            name=name,
            explains=explains,
            run=run,
            conditions=conditions,
            at_steps=at_steps,
            at_the_end=at_the_end,
            needs_other=needs_other,
        )
        return run

    return add


def runs_an_operation(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the step runs an author's code."""
    if step is None or (step.reversal is not None and step.kind != "pivot"):
        return None
    return f"a {step.kind} runs no operation"


def is_external(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the step calls an external service."""
    if step is not None and step.kind == "external":
        return None
    return "it calls no external service, so its effect and its record are one transaction"


def can_be_verified(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that, if the step is external, its service can be asked whether the call happened."""
    if step is None or step.kind != "external" or step.is_verified:
        return None
    return "it has no verification, so whether the call happened stays unknown, and a person decides"


def can_be_refused(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that a failure of this step undoes the saga."""
    pivot = None if step is None else reference.pivot_before(step.number)
    return None if pivot is None else "past the pivot a step is retried until it succeeds"


def is_past_pivot(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the pivot comes before the step, so that nothing can be undone any more."""
    pivot = None if step is None else reference.pivot_before(step.number)
    return None if pivot is not None else "before the pivot a step that fails permanently is undone"


def can_be_undone_before(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the saga can still be undone when it reaches this step."""
    number = len(reference.steps) + 1 if step is None else step.number
    return None if reference.pivot_before(number) is None else "past the pivot nothing is undone"


def can_be_undone_after(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the saga can still be undone after this step. The end of the saga always qualifies."""
    if step is None:
        return None
    if step.is_final:
        return "irreversible: nothing is undone after it"
    return can_be_undone_before(reference, step)


def has_compensation(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the step has a compensation, which runs when the saga is undone."""
    match None if step is None else step.reversal:
        case Reversal.NOTHING:
            return "a query has nothing to undo"
        case Reversal.COMPENSATED:
            return can_be_undone_before(reference, step)
        case Reversal.IRREVERSIBLE:
            return "irreversible: nothing is undone after it"
        case None:
            return f"a {step.kind if step else 'finish'} has nothing to undo"
        case _:
            return "past the pivot nothing is undone"


def succeeds_without_fault(reference: Reference, step: ReferenceStep | None) -> str | None:
    """Require that the step is not the one at which the reference run is refused."""
    if step is not None and step.number == len(reference.steps) and reference.outcome.phase != "completed":
        return "the example's saga is refused here"
    return None


__all__ = ["FAULTS", "Condition", "Fault", "NotApplicable", "RunFault", "Scenario", "fault"]
