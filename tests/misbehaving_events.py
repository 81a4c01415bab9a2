"""Events of the misbehaving orchestrators."""

from orchestrator import DomainEvent, FailureEvent


class ClockRequested(DomainEvent):
    """Start."""


class ClockCompleted(DomainEvent):
    """Done."""


class ClockFailed(FailureEvent):
    """Not done."""


class DiceRequested(DomainEvent):
    """Start."""


class DiceCompleted(DomainEvent):
    """Done."""


class DiceFailed(FailureEvent):
    """Not done."""
