"""Faults at the transitions: the turn to undoing, and the finish."""

from orchestrator.testing.conformance.faults import can_turn_back_after, fault
from orchestrator.testing.conformance.injection import Injected, ReplyLost
from orchestrator.testing.conformance.scenario import Stage


def _transition(name: str, where: str, explains: str) -> None:
    fails = ReplyLost() if where == "after" else Injected("for now")
    happens = "loses its reply" if where == "after" else "fails"

    @fault(
        f"{name} {happens}",
        explains,
        can_turn_back_after,
        at_the_end=name == "finish",
    )
    async def transition(stage: Stage) -> None:
        one = stage.injection()
        one.raises(f"{where} {name}", fails)

        if stage.step is None:
            await stage.drive(one)
        else:
            stage.ending = "taken back"
            await (await stage.turned_back(one))

        stage.must(one.passed.count(f"before {name}") == 2, f"the {name} was not tried again")


_transition("turn", "before", "the transaction that begins the undo fails once: it is retried")
_transition("turn", "after", "the begin of the undo is committed but its reply is lost: the retry changes nothing")
_transition("finish", "before", "writing the outcome fails once: it is retried, and the outcome is written once")
_transition("finish", "after", "the outcome is committed but its reply is lost: the retry changes nothing")
