"""The commands that a driver sends to the database, and their replies. They travel as JSON through Temporal."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from orchestrator.definition.atomic import named
from orchestrator.operation import HOME

if TYPE_CHECKING:
    Json = JsonValue
else:
    Json = Any  # values come from JSON and are written as JSON; validating them in pydantic took as long as a statement

STUCK_AFTER = 5
"""The number of failed attempts after which a saga is marked as stuck. The retries continue."""


FailedLocally = Annotated[str | None, Field(default=None, exclude_if=lambda error: error is None)]
"""The error of the one local attempt of a step with declared waits. The regular activity then begins with the wait."""
Details = Annotated[dict[str, Json] | None, Field(default=None, exclude_if=lambda details: details is None)]
"""A refusal's details. Without any, the field is left out of the JSON, because an older engine would refuse it."""


class Phase(StrEnum):
    """The phase of a saga. `forward` and `undoing` can change; the others are final."""

    FORWARD = "forward"
    UNDOING = "undoing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the saga has ended, so that its phase no longer changes."""
        return self not in (Phase.FORWARD, Phase.UNDOING)


class StepState(StrEnum):
    """The state in a step's row."""

    ATTEMPTING = "attempting"
    DONE = "done"
    REFUSED = "refused"
    BARRED = "barred"
    UNDONE = "undone"
    SKIPPED = "skipped"


class Message(BaseModel):
    """A frozen model without extra fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SagaRef(Message):
    """Identifies a saga, which is one event handled by one orchestrator."""

    id: UUID
    orchestrator: str
    event_id: str


class Opening(Message):
    """The data for opening a saga. Commands carry it, so that whichever arrives first writes the saga's row."""

    saga: SagaRef
    envelope: str
    """The event's envelope as it arrived."""
    owner_workflow_id: str = ""
    owner_first_run_id: str = ""
    deadline: float | None = None
    """For how many seconds after its opening the saga may go forward."""
    lock_keys: tuple[str, ...] = ()
    """The lock keys, sorted and without duplicates. They include the ordering key."""
    ordering_key: str | None = None


class StepCommand(Message):
    """Run one step."""

    saga: SagaRef
    number: int
    operation: str
    arguments: dict[str, Json]
    event_time: str
    """The event's time in RFC 3339."""
    opening: Opening | None = None
    """The data for opening the saga, in the driver's first step. The row is written in the step's own transaction."""
    past_pivot: bool = False
    """Whether the saga is past its pivot. A refusal then counts as an error and is retried."""
    attempt_limit: float | None = None
    """The maximum duration of one attempt of an external operation, in seconds."""
    failed_locally: FailedLocally = None

    @property
    def shown(self) -> str:
        """The operation's name, for display; for an atomic step, the names of its operations."""
        return named(self.operation, self.arguments)


class WaitCommand(Message):
    """Begin to sleep or to wait for an event, and record until when."""

    saga: SagaRef
    number: int
    operation: str
    """`saga.sleep` or `saga.wait_for`."""
    arguments: dict[str, Json]
    seconds: float
    opening: Opening | None = None
    """The data for opening the saga, as in a `StepCommand`."""


class WaitBegun(Message):
    """The wait has been recorded, just now or by an earlier attempt."""

    kind: Literal["waiting"] = "waiting"
    number: int
    seconds_left: float


class EndWaitCommand(Message):
    """Record the result of a wait."""

    saga: SagaRef
    number: int
    operation: str
    result: Json = None
    """The JSON of the received event's envelope; None if none came in time, or after a sleep."""


class StepDone(Message):
    """The step is done, just now or by an earlier attempt."""

    kind: Literal["done"] = "done"
    number: int
    operation: str
    result: Json


class StepRefused(Message):
    """The operation refused, just now or in an earlier attempt."""

    kind: Literal["refused"] = "refused"
    number: int
    operation: str
    """The operation that refused; in an atomic step, one of its operations."""
    code: str
    message: str
    details: Details = None


class Decided(Message):
    """Another driver has changed the saga's phase, so this driver must follow it."""

    kind: Literal["decided"] = "decided"
    phase: Phase


class Diverged(Message):
    """The step differs from its record, because `handle` or its event has changed since the saga was opened."""

    kind: Literal["diverged"] = "diverged"
    number: int
    recorded: str
    requested: str


class Reused(Message):
    """The event's id was already used for different content."""

    kind: Literal["reused"] = "reused"


class Resume(Message):
    """The saga was opened by the same event in another envelope. The driver must continue with that first envelope."""

    kind: Literal["resume"] = "resume"
    envelope: str


class Expired(Message):
    """The saga's deadline has passed."""

    kind: Literal["expired"] = "expired"


class Blocker(Message):
    """A lock key that a saga waits for, and the saga that holds it."""

    key: str
    holder: SagaRef
    before: int
    """The number of sagas ahead of this one in the lock queue, including the holder."""


class Blocked(Message):
    """The saga is open and waits for locks, and its step was not begun."""

    kind: Literal["blocked"] = "blocked"
    by: tuple[Blocker, ...]


class Outcome(Message):
    """The outcome of a saga."""

    kind: Literal["outcome"] = "outcome"
    phase: Phase
    event_id: str
    """The id of the triggering event."""
    content_digest: str
    """The content digest of the triggering event; it distinguishes a repeat from another event with the same id."""
    triggering: dict[str, Json]
    """The fields of the triggering event. They are compared if the digests differ, because one contract may have left
    out a default."""
    triggering_version: int = 1
    """The contract version of `triggering`."""
    event: dict[str, Json]
    """The completed or failed event, as a CloudEvent."""
    error_code: str | None = None
    message: str | None = None
    received: tuple[str, ...] = ()
    """The ids of the events that the saga received while it waited for them."""


Elsewhere = Decided | Diverged | Reused | Resume | Expired
"""The replies that end `handle`, because how the saga continues was decided outside of it."""
StepAnswer = StepDone | StepRefused | Decided | Diverged | Reused | Resume | Expired
"""The final reply to a step. `Blocked` is not final, because the step is sent again."""
WaitAnswer = WaitBegun | StepDone | Decided | Diverged | Reused | Resume | Expired
StepReply = Annotated[
    StepDone | StepRefused | Decided | Diverged | Reused | Resume | Expired | Blocked, Field(discriminator="kind")
]
WaitReply = Annotated[
    WaitBegun | StepDone | Decided | Diverged | Reused | Resume | Expired | Blocked, Field(discriminator="kind")
]


class BeginUndoCommand(Message):
    """Begin the undo of a saga."""

    opening: Opening
    ends_as: Literal[Phase.FAILED, Phase.CANCELLED]
    error_code: str
    message: str
    details: Details = None
    only_recorded: bool = False
    """Whether to undo the saga only if it already has a row. Otherwise the reply is `Reused` and nothing is written."""


class UndoableStep(Message):
    """A completed step that must be undone."""

    number: int
    operation: str
    compensation: str
    """The activity that undoes the step."""
    attempt_limit: float | None = None
    """The maximum duration of one call in seconds, if the operation is external."""
    database: str = HOME
    """The name of the database in which the step was done."""
    calls: tuple[str, ...] = ()
    """The operations of an atomic step, in order."""

    @property
    def shown(self) -> str:
        """The operation's name, for display; for an atomic step, the names of its operations."""
        return ", ".join(self.calls) or self.operation


class UndoPlan(Message):
    """The saga is undoing, and these steps must still be undone, in this order."""

    kind: Literal["plan"] = "plan"
    steps: tuple[UndoableStep, ...]
    ends_as: Phase
    event_time: str
    """The time of the first envelope, in RFC 3339."""


class PastPivot(Message):
    """A step that cannot be undone is done, so the saga must go forward until it completes."""

    kind: Literal["past_pivot"] = "past_pivot"
    number: int
    """The number of the pivot step."""


BeginUndoReply = Annotated[UndoPlan | PastPivot | Outcome | Reused, Field(discriminator="kind")]


class UndoCommand(Message):
    """Undo one step."""

    saga: SagaRef
    number: int
    operation: str
    event_time: str
    attempt_limit: float | None = None
    database: str = HOME
    calls: tuple[str, ...] = ()
    """The operations of an atomic step, in order."""
    failed_locally: FailedLocally = None

    @property
    def shown(self) -> str:
        """The operation's name, for display; for an atomic step, the names of its operations."""
        return ", ".join(self.calls) or self.operation


class Undone(Message):
    """The step has been undone, just now or by an earlier attempt."""

    kind: Literal["undone"] = "undone"
    number: int


UndoReply = Annotated[Undone | Decided, Field(discriminator="kind")]


class FinishCommand(Message):
    """Write the outcome of a saga."""

    opening: Opening
    completed: dict[str, Json] | None = None
    """The fields of the completed event. None after an undo, whose recorded reason decides the outcome."""
    completed_version: int | None = None
    """The contract version of `completed`."""
    steps: int = 0
    """The number of steps that `handle` called."""


FinishReply = Annotated[Outcome | Decided | Diverged | Reused, Field(discriminator="kind")]


class MarkStuckCommand(Message):
    """Mark a saga as stuck, or clear the mark."""

    saga: SagaRef
    number: int
    """The number of the step that is stuck."""
    error: str | None
    """The reason, or None to clear the mark."""
    step: StepCommand | None = None
    """The step past the pivot that keeps failing. It is recorded as attempted, so that an operator can skip it."""
