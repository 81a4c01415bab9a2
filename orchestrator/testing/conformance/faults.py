"""The list of faults: each with a stable name, one line of explanation, where it can occur, and how it is played.

First those of one driver, then messages that come twice or late, processes, several drivers, undoing, the transitions.
"Repeated request", "empty compensation" and "hanging" are the three anomalies of DTM's sub-transaction barrier.
"""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.operation import Reversal
from orchestrator.testing.conformance.reference import PlayedStep, Reference
from orchestrator.testing.conformance.scenario import Play, Stage

Applies = Callable[[Reference, PlayedStep | None], str | None]
"""Why a fault cannot occur at a place; None: it can. The place None is the end of the saga."""


class NotApplicable(Exception):
    """Found while playing: the fault cannot occur here. The message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way in which something goes wrong."""

    name: str
    explains: str
    """One line: what is injected, and what must come of it."""
    play: Play
    applies: tuple[Applies, ...] = ()
    at_steps: bool = True
    at_the_end: bool = False
    needs_other: bool = False
    """Played with the saga of another event beside."""

    def reason_against(self, reference: Reference, step: PlayedStep | None) -> str | None:
        """Why it cannot occur at this place, if so."""
        return next((reason for one in self.applies if (reason := one(reference, step)) is not None), None)


FAULTS: dict[str, Fault] = {}
"""By name, in the order in which reports list them."""


def fault(
    name: str,
    explains: str,
    *applies: Applies,
    at_steps: bool = True,
    at_the_end: bool = False,
    needs_other: bool = False,
) -> Callable[[Play], Play]:
    """Enter a play in the list."""

    def enter(play: Play) -> Play:
        FAULTS[name] = Fault(
            name=name,
            explains=explains,
            play=play,
            applies=applies,
            at_steps=at_steps,
            at_the_end=at_the_end,
            needs_other=needs_other,
        )
        return play

    return enter


def runs_an_operation(reference: Reference, step: PlayedStep | None) -> str | None:
    """The step runs an author's code."""
    if step is None or (step.reversal is not None and step.kind != "pivot"):
        return None
    return f"a {step.kind} runs no operation"


def is_outside(reference: Reference, step: PlayedStep | None) -> str | None:
    """The step calls the outside world."""
    if step is not None and step.kind == "external":
        return None
    return "it calls nothing outside: its effect and its record are one transaction"


def fate_is_known(reference: Reference, step: PlayedStep | None) -> str | None:
    """Whether a call outside happened can be asked."""
    if step is None or step.kind != "external" or step.is_verified:
        return None
    return "no verification: whether the call happened stays unknown, and a person decides"


def can_be_refused(reference: Reference, step: PlayedStep | None) -> str | None:
    """Giving up at this step turns the saga back."""
    pivot = None if step is None else reference.pivot_before(step.number)
    return None if pivot is None else "past the pivot a step is tried until it is done"


def is_past_pivot(reference: Reference, step: PlayedStep | None) -> str | None:
    """Nothing before the step can be undone any more."""
    pivot = None if step is None else reference.pivot_before(step.number)
    return None if pivot is not None else "before the pivot a step that fails for good is taken back"


def can_turn_back_before(reference: Reference, step: PlayedStep | None) -> str | None:
    """The saga can still be undone when it comes to this place."""
    number = len(reference.steps) + 1 if step is None else step.number
    return None if reference.pivot_before(number) is None else "past the pivot nothing is undone"


def can_turn_back_after(reference: Reference, step: PlayedStep | None) -> str | None:
    """The saga can still be undone when this step is done. At the end it is not undone, and finishes."""
    if step is None:
        return None
    if step.is_final:
        return "irreversible: nothing is undone after it"
    return can_turn_back_before(reference, step)


def is_undone(reference: Reference, step: PlayedStep | None) -> str | None:
    """The step has a compensation, which runs when the saga is undone."""
    match None if step is None else step.reversal:
        case Reversal.NOTHING:
            return "a query has nothing to undo"
        case Reversal.COMPENSATED:
            return can_turn_back_before(reference, step)
        case Reversal.IRREVERSIBLE:
            return "irreversible: nothing is undone after it"
        case None:
            return f"a {step.kind if step else 'finish'} has nothing to undo"
        case _:
            return "past the pivot nothing is undone"


def was_done(reference: Reference, step: PlayedStep | None) -> str | None:
    """The step is done in the clean run, not refused."""
    if step is not None and step.number == len(reference.steps) and reference.outcome.phase != "completed":
        return "the example's saga is refused here"
    return None


__all__ = ["FAULTS", "Applies", "Fault", "NotApplicable", "Play", "Stage", "fault"]
