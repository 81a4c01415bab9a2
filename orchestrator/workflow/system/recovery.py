"""The recovery workflow, which a schedule starts: it runs one activity and shows its result in the Web UI.

The activity does all the work (see `orchestrator.worker.recovery.sweep`), so the history is short and always the same.
"""

from datetime import timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from orchestrator.protocol.reserved_names import RECOVERY_WORKFLOW

RECOVER = "saga.recover"
"""The activity type. It is part of the wire format, like the constants in `names`. The workflow is `SagaRecovery`."""
SHOWN = 100
"""The maximum number of findings in a workflow's result. The counts include all findings."""

_ATTEMPT = timedelta(minutes=10)
_HEARTBEAT = timedelta(minutes=1)
"""The heartbeat timeout. The activity sends a heartbeat for each saga, and a request to the server may take 30 s."""


class Action(StrEnum):
    """What recovery does about a finding, or would do in a dry run."""

    UNDO = "undo"
    """The saga's execution was terminated, so recovery begins the undo and drives it."""
    RESUME = "resume"
    """The saga has no driver, so recovery starts an execution that resumes it."""
    PUBLISH = "publish"
    """An accepted event was never processed, so recovery sends it again."""
    KEEP = "keep"
    """A closed execution has not processed a message that is not an event, so recovery stores it as a dead letter."""
    TAKE_BACK = "take_back"
    """An external effect was found after its saga had ended, so recovery compensates it."""
    LEAVE = "leave"
    """The saga has no driver, and recovery cannot resume it."""
    POSTPONE = "postpone"
    """The limit of a sweep has been reached, so the next sweep handles the saga."""
    FAIL = "fail"
    """Recovery failed with an error, and the next sweep tries again."""

    @property
    def changes(self) -> bool:
        """Whether recovery changes anything."""
        return self in (Action.UNDO, Action.RESUME, Action.PUBLISH, Action.KEEP, Action.TAKE_BACK)


class Finding(BaseModel):
    """A saga or a message for which recovery has to act."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    action: Action
    workflow_id: str
    """The id of the saga's own execution, or of the execution to which the message was sent."""
    why: str


class Sweep(BaseModel):
    """The result of one sweep."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    looked_at: int
    """The number of sagas that have made no progress during the grace time."""
    alive: int
    """The number of these sagas that a running execution drives."""
    counts: dict[Action, int]
    """How often each action was done, or would be done."""
    swept_until: str | None = None
    """The time, in RFC 3339, up to which all closed executions were examined; None if some were not."""
    findings: tuple[Finding, ...] = ()
    """The first findings. The counts include all findings."""
    has_more: bool = False
    """Whether there are more stalled sagas, with which the next sweep begins."""

    def sentence(self) -> str:
        """Return a summary in one line."""
        actions = ", ".join(f"{number} {action.value}" for action, number in self.counts.items() if number)
        more = "; the next sweep examines more" if self.has_more else ""
        return f"{self.looked_at} stalled sagas, {self.alive} of them alive; {actions or 'nothing to do'}{more}"


@workflow.defn(name=RECOVERY_WORKFLOW)
class SagaRecovery:
    """Finds sagas without a driver, and completes or undoes them. It runs on a schedule, and may run at any time."""

    @workflow.run
    async def run(self, *_: RawValue) -> Sweep:
        """Run one sweep. Any arguments are ignored."""
        sweep: Sweep = await workflow.execute_activity(
            RECOVER,
            result_type=Sweep,
            start_to_close_timeout=_ATTEMPT,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=RetryPolicy(maximum_attempts=5, maximum_interval=timedelta(seconds=30)),
            summary="find sagas without a driver",
        )
        workflow.set_current_details(sweep.sentence())
        return sweep
