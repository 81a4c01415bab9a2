"""Parking means that an execution waits for a newer worker, because its event's version is newer than this worker
knows."""

from orchestrator.errors import OrchestratorError


class EventParked(OrchestratorError):
    """The execution has an event that only a newer worker can read. Nothing is lost and nothing is undone.

    The error fails the workflow task, so that the history gets no trace of it that a newer worker could not replay. The
    server repeats the task until a worker that knows the version runs it.
    """
