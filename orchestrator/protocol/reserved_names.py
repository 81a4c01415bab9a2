"""Names that the engine or Temporal uses itself. An application must not declare any of them."""

PUBLISH_EVENT_WORKFLOW = "PublishEvent"
"""The type of the workflow that publishes an event to every listening orchestrator."""
SCHEDULED_WORKFLOW = "ScheduledPublish"
"""The type of the workflow that a Temporal schedule starts to publish an event."""
RECOVERY_WORKFLOW = "SagaRecovery"
LOOKUPS_WORKFLOW = "SagaLookups"
WORKFLOWS = frozenset({PUBLISH_EVENT_WORKFLOW, SCHEDULED_WORKFLOW, RECOVERY_WORKFLOW, LOOKUPS_WORKFLOW})
"""The engine's own workflow types."""

ACTIVITY_PREFIX = "saga."
"""The prefix of the engine's own activity types."""
TABLE_PREFIX = "saga_"
"""The prefix of the engine's tables, except for the table `saga`."""
TEMPORAL_PREFIX = "__temporal"
"""The prefix of the names that Temporal reserves."""
