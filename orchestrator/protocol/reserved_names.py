"""Names that the engine, or Temporal, uses itself. An application that took one would replace what is behind it."""

PUBLISH_EVENT_WORKFLOW = "PublishEvent"
"""The workflow that publishes for whoever does not know which orchestrator listens."""
SCHEDULED_WORKFLOW = "ScheduledPublish"
"""The workflow that a schedule starts, to publish."""
RECOVERY_WORKFLOW = "SagaRecovery"
ANSWERS_WORKFLOW = "SagaAnswers"
WORKFLOWS = frozenset({PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW, RECOVERY_WORKFLOW, ANSWERS_WORKFLOW})
"""The engine's workflow types."""

ACTIVITY_PREFIX = "saga."
"""Begins each of the engine's activity types."""
TABLE_PREFIX = "saga_"
"""Begins each of the engine's tables but `saga` itself."""
TEMPORAL_PREFIX = "__temporal"
"""Begins the names that Temporal keeps for itself."""
