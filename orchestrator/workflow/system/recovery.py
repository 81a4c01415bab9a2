"""Recovery as the Web UI shows it: a scheduled workflow that runs one activity and tells what came of it.

Light, and the same whatever is in the database: the work is `orchestrator.worker.recovery.sweep`'s.
"""

from datetime import timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from orchestrator.protocol.reserved_names import RECOVERY_WORKFLOW

RECOVER = "saga.recover"
"""The activity; `SagaRecovery` is the workflow. Names on the wire, as those in `names`."""
SHOWN = 100
"""Findings that a workflow's result carries; the counts are of all."""

_ATTEMPT = timedelta(minutes=10)
_SILENCE = timedelta(minutes=1)
"""Without a heartbeat; one comes with each saga, and one question to the server is asked for up to 30 s."""


class Action(StrEnum):
    """What recovery does, or would do."""

    UNDO = "undo"
    """Its execution was terminated: it is turned to undoing, and driven."""
    RESUME = "resume"
    """Nobody drives it: it gets an execution, and goes on where it stands."""
    PUBLISH = "publish"
    """An event that was accepted and never taken is sent again."""
    KEEP = "keep"
    """A message that is no event, in an execution that never looked at it, is kept as a dead letter."""
    TAKE_BACK = "take_back"
    """An effect outside came to light when its saga had ended: it is compensated."""
    LEAVE = "leave"
    """Nobody drives it, and recovery cannot help."""
    POSTPONE = "postpone"
    """The ceiling is reached: the next recovery takes it."""
    FAIL = "fail"
    """Recovery tried, and an error came: the next one tries again."""

    @property
    def changes(self) -> bool:
        """Whether something is done."""
        return self in (Action.UNDO, Action.RESUME, Action.PUBLISH, Action.KEEP, Action.TAKE_BACK)


class Finding(BaseModel):
    """One saga, or one message, that needs something."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    action: Action
    workflow_id: str
    """The saga's own execution; for a message that is kept, the one to which it was sent."""
    why: str


class Sweep(BaseModel):
    """What one recovery saw and did."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    looked_at: int
    """Sagas without progress for the grace time."""
    alive: int
    """Of those: driven by an execution that runs."""
    counts: dict[Action, int]
    """How often each thing was done, or would be."""
    swept_until: str | None = None
    """Executions that closed before then were looked through, RFC 3339; None if some are left."""
    findings: tuple[Finding, ...] = ()
    """The first of them; the counts are of all."""
    has_more: bool = False
    """Other silent sagas were not looked at: the next recovery begins with them."""

    def sentence(self) -> str:
        """In one line."""
        done = ", ".join(f"{number} {action.value}" for action, number in self.counts.items() if number)
        more = "; more are left for the next recovery" if self.has_more else ""
        return f"{self.looked_at} silent sagas, {self.alive} of them alive; {done or 'nothing to do'}{more}"


@workflow.defn(name=RECOVERY_WORKFLOW)
class SagaRecovery:
    """Looks for sagas that nobody drives any more, and sees that they end. Run by a schedule; harmless at any time."""

    @workflow.run
    async def run(self, *_: RawValue) -> Sweep:
        """One sweep. Takes nothing; what it is given all the same does not stop it."""
        swept: Sweep = await workflow.execute_activity(
            RECOVER,
            result_type=Sweep,
            start_to_close_timeout=_ATTEMPT,
            heartbeat_timeout=_SILENCE,
            retry_policy=RetryPolicy(maximum_attempts=5, maximum_interval=timedelta(seconds=30)),
            summary="look for sagas that nobody drives",
        )
        workflow.set_current_details(swept.sentence())
        return swept
