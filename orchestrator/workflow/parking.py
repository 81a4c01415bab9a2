"""Parking: an execution waits for a newer worker if its event has a newer version than the current worker knows."""

from orchestrator.errors import OrchestratorError


class EventParked(OrchestratorError):
    """The execution has an event that only a newer worker can read. Nothing is lost and nothing is undone.

    The error fails the workflow task, so that it leaves no trace in the history, which a newer worker could not replay.
    The server repeats the task until a worker runs it that knows the version.
    """
