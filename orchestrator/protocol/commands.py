"""What a driver asks of the database, and what it hears back. All of it travels as JSON through Temporal."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from orchestrator.definition.atomic import ATOMIC, calls_in, named
from orchestrator.operation import HOME

if TYPE_CHECKING:
    Json = JsonValue
else:
    Json = Any  # it comes from JSON and goes there; pydantic's check of each value took as long as a statement

STUCK_AFTER = 5
"""Failed attempts of what must be done, before its saga shows as stuck. It is tried on all the same."""


class Phase(StrEnum):
    """Where a saga stands. `forward` and `undoing` move on; the others are final."""

    FORWARD = "forward"
    UNDOING = "undoing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self not in (Phase.FORWARD, Phase.UNDOING)


class StepState(StrEnum):
    """Where a step stands."""

    ATTEMPTING = "attempting"
    DONE = "done"
    REFUSED = "refused"
    BARRED = "barred"
    UNDONE = "undone"
    SKIPPED = "skipped"


class Message(BaseModel):
    """Frozen, nothing extra."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SagaRef(Message):
    """Which saga: one event handled by one orchestrator."""

    id: UUID
    orchestrator: str
    event_id: str


class Opening(Message):
    """What it takes to write the saga's row if nobody has yet. Every transition carries it."""

    saga: SagaRef
    envelope: str
    """The event's envelope, as it arrived."""
    owner_workflow_id: str = ""
    owner_first_run_id: str = ""
    deadline: float | None = None
    """Seconds from the row's writing after which the saga goes forward no more."""
    lock_keys: tuple[str, ...] = ()
    """Sorted, each once; the ordering key is among them."""
    ordering_key: str | None = None


class StepCommand(Message):
    """Run one step."""

    saga: SagaRef
    number: int
    operation: str
    arguments: dict[str, Json]
    event_time: str
    """RFC 3339."""
    opening: Opening | None = None
    """Given with the driver's first step: the row is written in the same transaction."""
    past_pivot: bool = False
    """A refusal is no answer any more, but a fault: it is tried again."""
    attempt_limit: float | None = None
    """Seconds that one attempt of an external operation may take."""

    @property
    def shown(self) -> str:
        """What it runs, as people read it."""
        return named(self.operation, self.arguments)


class WaitCommand(Message):
    """Begin to sleep, or to wait for an event: write down until when."""

    saga: SagaRef
    number: int
    operation: str
    """`saga.sleep` or `saga.wait_for`."""
    arguments: dict[str, Json]
    seconds: float
    opening: Opening | None = None
    """As a step's."""


class WaitBegun(Message):
    """The wait is written down, now or since an earlier attempt."""

    kind: Literal["waiting"] = "waiting"
    number: int
    seconds_left: float


class EndWaitCommand(Message):
    """Write down what a wait ended with."""

    saga: SagaRef
    number: int
    operation: str
    result: Json = None
    """The envelope of the event that came, as text."""


class StepDone(Message):
    """The step's effect stands, now or since an earlier attempt."""

    kind: Literal["done"] = "done"
    number: int
    operation: str
    result: Json


class StepRefused(Message):
    """The operation said no, now or in an earlier attempt."""

    kind: Literal["refused"] = "refused"
    number: int
    operation: str
    """Who said no: of an atomic step, the one of its operations that did."""
    code: str
    message: str


class Decided(Message):
    """The saga no longer goes the way the driver takes: it was decided elsewhere."""

    kind: Literal["decided"] = "decided"
    phase: Phase


class Diverged(Message):
    """The step is not the one that was recorded: `handle` or its event has changed under a running saga."""

    kind: Literal["diverged"] = "diverged"
    number: int
    recorded: str
    given: str


class Reused(Message):
    """The event's id was used before, for other content."""

    kind: Literal["reused"] = "reused"


class Resume(Message):
    """The saga was opened by the same event sent at another time: drive on with the envelope that came first."""

    kind: Literal["resume"] = "resume"
    envelope: str


class Expired(Message):
    """The saga's deadline is past."""

    kind: Literal["expired"] = "expired"


class Blocker(Message):
    """Why a saga waits: somebody came first for one of its keys."""

    key: str
    holder: SagaRef
    before: int
    """How many sagas are before it on this key, the holder among them."""


class Blocked(Message):
    """The saga is opened, and waits for locks; the step was not begun."""

    kind: Literal["blocked"] = "blocked"
    by: tuple[Blocker, ...]


class Outcome(Message):
    """How a saga ended."""

    kind: Literal["outcome"] = "outcome"
    phase: Phase
    event_id: str
    """The triggering event."""
    content_digest: str
    """Of the triggering event: tells a repeat from another event with its id."""
    triggering: dict[str, Json]
    """Fields of the triggering event, for when digests differ only by a default that one of two contracts left out."""
    triggering_version: int = 1
    """Version of these fields."""
    event: dict[str, Json]
    """The completed or failed event, as a CloudEvent."""
    error_code: str | None = None
    message: str | None = None
    received: tuple[str, ...] = ()
    """Ids of the events that the saga waited for and took."""


Elsewhere = Decided | Diverged | Reused | Resume | Expired
"""What ends `handle`: something other than it decides."""
StepAnswer = StepDone | StepRefused | Decided | Diverged | Reused | Resume | Expired
"""What became of a step."""
WaitAnswer = WaitBegun | StepDone | Decided | Diverged | Reused | Resume | Expired
StepReply = Annotated[
    StepDone | StepRefused | Decided | Diverged | Reused | Resume | Expired | Blocked, Field(discriminator="kind")
]
WaitReply = Annotated[
    WaitBegun | StepDone | Decided | Diverged | Reused | Resume | Expired | Blocked, Field(discriminator="kind")
]


class BeginUndoCommand(Message):
    """Turn the saga to undoing."""

    opening: Opening
    ends_as: Literal[Phase.FAILED, Phase.CANCELLED]
    error_code: str
    message: str
    only_recorded: bool = False
    """Not if the saga has no row: then the answer is `Reused`, and nothing is written."""


class UndoableStep(Message):
    """A step that is to be undone."""

    number: int
    operation: str
    compensation: str
    """The activity that undoes it."""
    attempt_limit: float | None = None
    """Seconds that one call may take, if it is external."""
    database: str = HOME
    """Where it was done."""
    calls: tuple[str, ...] = ()
    """Operations of an atomic step, in order."""

    @property
    def shown(self) -> str:
        """What it did, as people read it."""
        return ", ".join(self.calls) or self.operation


class UndoPlan(Message):
    """The saga is undoing; these steps are left, in the order to undo them."""

    kind: Literal["plan"] = "plan"
    steps: tuple[UndoableStep, ...]
    ends_as: Phase
    event_time: str
    """RFC 3339, of the envelope that came first."""


class PastPivot(Message):
    """A step that cannot be undone is done: the saga goes on to its end."""

    kind: Literal["past_pivot"] = "past_pivot"
    number: int


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
    """As in the plan."""

    @property
    def shown(self) -> str:
        """What is undone, as people read it."""
        return ", ".join(self.calls) or self.operation


class Undone(Message):
    """The step is undone, now or since an earlier attempt."""

    kind: Literal["undone"] = "undone"
    number: int


UndoReply = Annotated[Undone | Decided, Field(discriminator="kind")]


class FinishCommand(Message):
    """Write the outcome. Without `completed` the saga ends as its undoing was decided."""

    opening: Opening
    completed: dict[str, Json] | None = None
    """Fields of the completed event."""
    completed_version: int | None = None
    """Version of these fields."""
    steps: int = 0
    """How many steps `handle` reached."""


FinishReply = Annotated[Outcome | Decided | Diverged | Reused, Field(discriminator="kind")]


class MarkStuckCommand(Message):
    """Say that the saga waits for a person, or that it does no more."""

    saga: SagaRef
    number: int
    error: str | None
    """None: it goes on."""
    step: StepCommand | None = None
    """The step past the pivot that cannot be done: written down as attempted, so that a person can skip it."""


def text_of(operation: str, arguments: dict[str, Any]) -> str:
    """A call as a person reads it."""
    if operation == ATOMIC.name:
        return f"atomically {', '.join(text_of(name, given) for name, given in calls_in(arguments))}"
    return f"{operation}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
