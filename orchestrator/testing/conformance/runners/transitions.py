"""Faults at the saga's two transitions: the beginning of the undo, and the finish."""

from orchestrator.testing.conformance.faults import can_be_undone_after, fault
from orchestrator.testing.conformance.injection import Injected, ReplyLost
from orchestrator.testing.conformance.scenario import Scenario


def _transition(name: str, where: str, explains: str) -> None:
    error = ReplyLost() if where == "after" else Injected("fails once")
    what_happens = "loses its reply" if where == "after" else "fails"

    @fault(
        f"{name} {what_happens}",
        explains,
        can_be_undone_after,
        at_the_end=name == "finish",
    )
    async def transition(scenario: Scenario) -> None:
        injection = scenario.injection()
        injection.raise_at(f"{where} {name}", error)

        if scenario.step is None:
            await scenario.drive(injection)
        else:
            scenario.ending = "undone"
            await (await scenario.cancel_after_step(injection))

        scenario.require(injection.passed.count(f"before {name}") == 2, f"the {name} was not retried")


_transition("begin undo", "before", "the transaction that begins the undo fails once: it is retried")
_transition(
    "begin undo", "after", "the start of the undo is committed but its reply is lost: the retry changes nothing"
)
_transition("finish", "before", "writing the outcome fails once: it is retried, and the outcome is written once")
_transition("finish", "after", "the outcome is committed but its reply is lost: the retry changes nothing")
