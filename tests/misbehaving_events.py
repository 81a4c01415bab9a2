"""Events of the misbehaving orchestrators."""

from orchestrator import DomainEvent, FailureEvent


class ClockRequested(DomainEvent):
    """Starts the saga that reads a clock."""


class ClockCompleted(DomainEvent):
    """The clock has been read."""


class ClockFailed(FailureEvent):
    """The clock has not been read."""


class DiceRequested(DomainEvent):
    """Starts the saga that throws dice."""


class DiceCompleted(DomainEvent):
    """The dice have been thrown."""


class DiceFailed(FailureEvent):
    """The dice have not been thrown."""
