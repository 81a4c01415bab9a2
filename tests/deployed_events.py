"""Events of the orchestrator whose code changes while its sagas sleep."""

from orchestrator import DomainEvent, FailureEvent


class DeployedRequested(DomainEvent):
    """Asks to move coins, with a long pause in between."""

    coins: int


class DeployedCompleted(DomainEvent):
    """The coins have been moved."""


class DeployedFailed(FailureEvent):
    """The coins have not been moved."""
