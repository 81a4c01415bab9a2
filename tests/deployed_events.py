"""Events of the orchestrator whose code changes while its sagas sleep."""

from orchestrator import DomainEvent, FailureEvent


class DeployedRequested(DomainEvent):
    """Move coins, with a long pause."""

    coins: int


class DeployedCompleted(DomainEvent):
    """Moved."""


class DeployedFailed(FailureEvent):
    """Not moved."""
