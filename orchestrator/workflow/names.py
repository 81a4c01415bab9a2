"""Names on the wire and in the Web UI. Changing one breaks running executions and recorded histories."""

TURN = "saga.turn_to_undoing"
FINISH = "saga.finish"
STICK = "saga.mark_stuck"
DEAD_LETTER = "saga.keep_dead_letter"
BEGIN_WAIT = "saga.begin_wait"
END_WAIT = "saga.end_wait"

EVENT_SIGNAL = "event"
"""Carries an envelope; an execution is started with it."""
RETRY_SIGNAL = "retry"
"""Takes a stuck saga up again, and tries at once what waits for its next attempt."""
WAKE_SIGNAL = "wake"
"""A saga that waits for a lock looks at once whether it holds it now."""

START_DOOR = "start"
"""Where a message came in that was a start argument; other doors are named after their signal."""

OUTCOME_MEMO = "outcome"
"""A cancelled execution has no result, so its outcome stands here."""


def own_workflow_id(orchestrator: str, event_id: str) -> str:
    """Id of a saga's own execution: `MoneyTransfer/event/<event id>`."""
    return f"{orchestrator}/event/{event_id}"
